"""The training rows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.uris import DATA_URI
from lora_trainer.contract.wire import WireModel


class RowFormat(StrEnum):
    """Shapes of a data-set row."""

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "promptCompletion"
    TEXT = "text"
    PREFERENCE = "preference"
    PROMPT = "prompt"


COLUMN_ROLES = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "text",
    "system",
    "chosen",
    "rejected",
)
Columns = Annotated[
    dict[str, Annotated[str, Field(min_length=1, max_length=128)]] | None, Field(max_length=len(COLUMN_ROLES))
]
MAX_SOURCES = 16


class SourceSpec(WireModel):
    """One of several sources of training rows."""

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)]
    """Where the rows are, as in dataset.uri."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How often each row is trained on: 2 trains on each twice, 0.25 on a quarter of them. The total is weight times
    the usable rows, rounded; which rows make up a fraction is decided by a hash of training.seed and their contents."""
    format: RowFormat | None = None
    """Shape of the rows. Unset: dataset.format, or else detected from the columns."""
    columns: Columns = None
    """Your column names, as in dataset.columns. Unset: dataset.columns."""


ChatTemplateName = Literal[
    "alpaca",
    "chatml",
    "gemma",
    "gemma-3",
    "gemma-3n",
    "gemma-4",
    "gemma-4-thinking",
    "gemma2",
    "gemma2_chatml",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4-thinking",
    "gemma_chatml",
    "gpt-oss",
    "gptoss",
    "lfm-2",
    "lfm-2.5",
    "llama",
    "llama-3",
    "llama-3.1",
    "llama-3.2",
    "llama-3.3",
    "llama-31",
    "llama-32",
    "llama-33",
    "llama3",
    "mistral",
    "phi-3",
    "phi-3.5",
    "phi-35",
    "phi-4",
    "qwen-2.5",
    "qwen-2.5-coder",
    "qwen-25",
    "qwen-25-coder",
    "qwen-3",
    "qwen2.5",
    "qwen2.5-coder",
    "qwen25",
    "qwen25-coder",
    "qwen3",
    "qwen3-instruct",
    "qwen3-thinking",
    "starling",
    "unsloth",
    "vicuna",
    "vicuna_old",
    "yi-chat",
    "zephyr",
]


class ChatTemplateSpec(WireModel):
    """A chat template: one of Unsloth's by its name, or your own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.name) != has(self.jinja)", "dataset.chatTemplate takes exactly one of name and jinja."),
        )
    )

    name: ChatTemplateName | None = None
    """Name of a template of Unsloth's get_chat_template. Its special tokens must be in the model's vocabulary; what it
    writes behind an answer is the end token that is trained and published."""
    jinja: Annotated[str, Field(min_length=1, max_length=32_768)] | None = None
    """Source of a Jinja template, as in tokenizer_config.json."""


class DatasetSpec(WireModel):
    """The training rows: of one place (uri) or of several (sources)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.uri) != has(self.sources)", "dataset takes exactly one of uri and sources."),
        )
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)] | None = None
    """A file, a folder, or files by a pattern (train-*.parquet) of .jsonl, .json, .csv (.gz, .bz2, .xz, .zst, .lz4 and
    .zip too) or .parquet: s3://bucket/path, gs://bucket/path or az://container/path; pvc://claim/path for a
    PersistentVolumeClaim and configmap://name/key for a ConfigMap of the namespace; or
    hf://datasets/owner/name@revision/path for a data set on the Hugging Face Hub, read with the token of
    model.tokenSecretRef, whose revision (unset: main) is pinned for the run and reported."""
    sources: Annotated[tuple[SourceSpec, ...], Field(min_length=1, max_length=MAX_SOURCES)] | None = None
    """Several places whose rows are trained on together."""
    format: RowFormat | None = None
    """Shape of the rows. Unset: detected from the columns. Method DPO reads preference (prompt, chosen, rejected), GRPO
    reads prompt (prompt and the columns of its rewards), SFT the others."""
    columns: Columns = None
    """Your column names, keyed by the name the format expects (prompt: question)."""
    chat_template: ChatTemplateSpec | None = None
    """How conversations are rendered. Unset: the tokenizer's own template."""
    overlength: Literal["drop", "truncate", "fail"] = "drop"
    """What happens to rows longer than model.maxSeqLength: drop the row, cut its end, or fail the run."""
    max_bad_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percent of the rows that may be unusable (not JSON, a column missing, an unknown role): they are left out and
    listed with file, line and reason in data-report.json. 0: the first unusable row fails the run."""

    def all_sources(self) -> tuple[SourceSpec, ...]:
        """The sources, with format and columns of the data set where they name none of their own."""
        named = self.sources or ((SourceSpec(uri=self.uri),) if self.uri else ())
        return tuple(self.inherited(source) for source in named)

    def inherited(self, source: SourceSpec) -> SourceSpec:
        """The source, with format and columns of the data set where it names none of its own."""
        return source.model_copy(
            update={"format": source.format or self.format, "columns": source.columns or self.columns}
        )
