"""The training rows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.places import SPLIT_OF_THE_HUB, DataPlace
from lora_trainer.contract.spec.uris import stays_in_its_folder
from lora_trainer.contract.wire import WireModel


class RowFormat(StrEnum):
    """Formats of a dataset row."""

    MESSAGES = "Messages"
    SHAREGPT = "ShareGPT"
    ALPACA = "Alpaca"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"
    PREFERENCE = "Preference"
    PROMPT = "Prompt"


class Overlength(StrEnum):
    """What happens to rows that are too long."""

    DROP = "Drop"
    TRUNCATE = "Truncate"
    FAIL = "Fail"


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
RESERVED_KWARGS = frozenset(
    (
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "pad_token",
        "unk_token",
        "sep_token",
        "cls_token",
        "mask_token",
    )
)
"""Variables of chat templates that the rows and the tokenizer set."""
ChatTemplateValue = Annotated[
    bool | int | Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=1024)],
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
]


def _without_reserved(kwargs: dict[str, ChatTemplateValue] | None) -> dict[str, ChatTemplateValue] | None:
    """The variables; none given is the same as unset."""
    if reserved := sorted(RESERVED_KWARGS.intersection(kwargs or ())):
        raise ValueError(f"the rows and the tokenizer set {', '.join(reserved)}: remove it")
    return kwargs or None


ChatTemplateKwargs = Annotated[
    dict[str, ChatTemplateValue] | None, Field(max_length=16), AfterValidator(_without_reserved)
]


class SourceSpec(DataPlace):
    """One of several sources of training rows."""

    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How often each row is trained on: 2 trains on each row twice, 0.25 on a quarter of the rows. The total is weight
    times the usable rows, rounded. A hash of training.seed and the row's contents decides which rows are used."""
    format: RowFormat | None = None
    """Format of the rows. Unset: dataset.format, or else detected from the columns."""
    columns: Columns = None
    """Your column names, as in dataset.columns. Unset: dataset.columns."""


class ChatTemplateSpec(WireModel):
    """A chat template: one of Unsloth's by its name, or your own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.name) != has(self.jinja)", "dataset.chatTemplate takes exactly one of name and jinja."),
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")] | None = None
    """Name of a template of Unsloth's get_chat_template (llama-3.1, qwen-2.5, chatml). Prepare refuses an unknown name
    and lists those of the class's image. The template's special tokens must be in the model's vocabulary. The token
    that it writes after an answer is trained and published as the end token."""
    jinja: Annotated[str, Field(min_length=1, max_length=32_768)] | None = None
    """Source of a Jinja template, as in tokenizer_config.json."""


class DatasetSpec(DataPlace):
    """The training rows: of one place (uri, configMapRef or claimRef) or of several (sources)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.uri), has(self.configMapRef), has(self.claimRef), has(self.sources)]"
                ".filter(given, given).size() == 1",
                "dataset takes exactly one of uri, configMapRef, claimRef and sources.",
            ),
            SPLIT_OF_THE_HUB,
            stays_in_its_folder("uri"),
        )
    )

    sources: Annotated[tuple[SourceSpec, ...], Field(min_length=1, max_length=MAX_SOURCES)] | None = None
    """Several places whose rows are trained on together."""
    format: RowFormat | None = None
    """Format of the rows. Unset: detected from the columns. Method DPO reads Preference (prompt, chosen, rejected),
    GRPO reads Prompt (prompt and the columns of its rewards), SFT reads the others."""
    columns: Columns = None
    """Your column names, keyed by the name the format expects (prompt: question)."""
    chat_template: ChatTemplateSpec | None = None
    """How conversations are rendered. Unset: the tokenizer's own template."""
    chat_template_kwargs: ChatTemplateKwargs = None
    """Variables of the chat template, as vLLM and TRL name them (enable_thinking: false). Each value is true or false,
    a number or a string. They reach every rendering: rows, held-out rows and prompts. Prepare refuses a variable that
    the template never reads. Serve the adapter with the same ones."""
    overlength: Overlength = Overlength.DROP
    """What happens to rows longer than model.maxSeqLength: Drop leaves the row out, Truncate cuts its end, Fail fails
    the run."""
    samples_in_status: Annotated[int, Field(ge=0, le=3)] = 0
    """Number of shortened training rows in status.dataset.samples, visible to all who may read the LoraFineTune. The
    report in the bucket always has three."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the rows that may be unusable (not JSON, a column missing, an unknown role): they are left out and
    listed with file, line and reason in data-report.json. 0: the first unusable row fails the run."""

    def all_sources(self) -> tuple[SourceSpec, ...]:
        """The sources, with format and columns of the dataset where they set none."""
        named = self.sources or ((source_at(self),) if self.address else ())
        return tuple(self.inherited(source) for source in named)

    def inherited(self, source: SourceSpec) -> SourceSpec:
        """The source, with format and columns of the dataset where it sets none."""
        return source.model_copy(
            update={"format": source.format or self.format, "columns": source.columns or self.columns}
        )


def source_at(place: DataPlace) -> SourceSpec:
    """A source of the rows at a place."""
    return SourceSpec(uri=place.uri, split=place.split, config_map_ref=place.config_map_ref, claim_ref=place.claim_ref)
