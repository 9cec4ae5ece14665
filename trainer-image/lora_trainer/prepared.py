"""The prepared set: tokenised rows and the decisions about the run, which prepare writes for train.

A folder with TRAIN_ROWS, EVAL_ROWS, the rows of evaluation.datasets and prepared.json, published to
layout.prepared_uri as a set whose manifest's fingerprint is the run digest. Reads and writes local files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lora_trainer.contract.layout import PREPARED
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.spec.training import Method
from lora_trainer.contract.wire import WireModel

TRAIN_ROWS = "train.parquet"
EVAL_ROWS = "eval.parquet"


def set_rows(name: str) -> str:
    """The same of one of evaluation.datasets."""
    return f"eval-{name}.parquet"


@dataclass(frozen=True, kw_only=True)
class RowSchemas:
    """Columns of the rows of one method."""

    trained: pa.Schema
    """TRAIN_ROWS: what TRL's trainer of that method takes."""
    held_out: pa.Schema
    """EVAL_ROWS: the same, and what people read."""


def _ids(name: str) -> pa.Field:
    return pa.field(name, pa.list_(pa.int32()), nullable=False)


def _text(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False)


# Token ids, and 1 for each token that counts in the loss.
_ANSWERS = (_ids("input_ids"), pa.field("completion_mask", pa.list_(pa.int8()), nullable=False))
_PAIRS = (_ids("prompt_ids"), _ids("chosen_ids"), _ids("rejected_ids"))
# The prompt as text, and JSON of all that the rewards read.
_QUESTIONS = (_text("prompt"), _text("row"))
# How many leading tokens ask for the last answer.
_PROMPT_LENGTH = pa.field("prompt_length", pa.int32(), nullable=False)

SCHEMAS: Mapping[Method, RowSchemas] = {
    Method.SFT: RowSchemas(
        trained=pa.schema(_ANSWERS),
        held_out=pa.schema([*_ANSWERS, _PROMPT_LENGTH, _text("prompt"), _text("completion")]),
    ),
    Method.DPO: RowSchemas(
        trained=pa.schema(_PAIRS),
        held_out=pa.schema([*_PAIRS, _text("prompt"), _text("chosen"), _text("rejected")]),
    ),
    Method.GRPO: RowSchemas(
        trained=pa.schema(_QUESTIONS), held_out=pa.schema([*_QUESTIONS, _ids("prompt_ids"), _text("question")])
    ),
}
ROWS_PER_BATCH = 1000
NO_LABEL = -100
"""Tokens with this label are not trained (torch.nn.CrossEntropyLoss.ignore_index)."""


class Prompt(WireModel):
    """One of the user's own prompts."""

    text: str
    """As the user wrote it."""
    system: str | None = None
    """The system message before it."""
    input_ids: tuple[int, ...]
    """As the model reads it."""


class Prepared(WireModel):
    """prepared.json: what prepare found and decided."""

    result: PrepareResult
    """The result that was reported to the operator, with `chosen`."""
    eos_token_id: int
    """Token that ends an answer as the rows are rendered."""
    pad_token_id: int
    """Token to pad batches with; never the end token, unless the tokenizer knows no other."""
    prompts: tuple[Prompt, ...] = ()
    """evaluation.prompts, to be answered by base and adapter."""


def answer_end(completion_mask: Sequence[int]) -> int:
    """Leading tokens of a row up to the end of its last answer: what follows is not the model's to write."""
    return max((index for index, trained in enumerate(completion_mask, start=1) if trained), default=0)


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Write prepared.json."""
    (folder / PREPARED).write_text(prepared.model_dump_json(by_alias=True, exclude_none=True, indent=1))


def read_prepared(folder: Path) -> Prepared:
    """The prepared.json of a folder that was fetched and compared with its manifest."""
    return Prepared.model_validate_json((folder / PREPARED).read_bytes())


def write_rows(path: Path, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> None:
    """Write batches to a file."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def copy_rows(source: Path, target: Path, *, schema: pa.Schema, times: Sequence[int]) -> None:
    """Write each row of `source` as often as `times` says to `target`, one batch in memory at a time."""
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        start = 0
        for batch in read_batches(source):
            counts = times[start : start + batch.num_rows]
            start += batch.num_rows
            chosen = [index for index, count in enumerate(counts) for _ in range(count)]
            writer.write_batch(batch.take(pa.array(chosen, pa.int64())).select(schema.names))


def first_rows(path: Path, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows of a file."""
    return next(pq.ParquetFile(path).iter_batches(limit)).to_pylist()


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file of rows."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS_PER_BATCH)
