"""From records to tokenised rows on disk. A batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from lora_trainer.contract.spec import DatasetSpec, RowFormat
from lora_trainer.data.chat_template import TrainOn
from lora_trainer.data.formats import Completion, Conversation, Row, RowError, Text, detect_format, normalise
from lora_trainer.data.report import BadRows, DropReason, RowReport
from lora_trainer.data.sources import Record
from lora_trainer.data.tokens import Draft, RowTokenizer, TokenRow
from lora_trainer.prepared import EVAL_SCHEMA, ROWS_PER_BATCH, write_rows

DIGEST_BYTES = 16
PEEKED_RECORDS = 100
"""Records among which one must have columns of a known format."""


@dataclass(kw_only=True)
class RowSet:
    """Tokenised rows in a file, and what is known of each without reading it again."""

    path: Path
    report: RowReport = field(default_factory=RowReport)
    bad: BadRows = field(default_factory=BadRows)
    """Rows that cannot be used."""
    overlong: BadRows = field(default_factory=BadRows)
    """Rows that are too long, with dataset.overlength: fail."""
    read: int = 0
    """All rows, bad ones too."""
    digests: list[bytes] = field(default_factory=list)
    """Of ids and mask, row by row: equal rows have equal digests."""
    prompts: list[bytes] = field(default_factory=list)
    """Digests of what asks for the last answer, row by row."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    trained: array[int] = field(default_factory=lambda: array("i"))
    """Tokens that count in the loss, row by row."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How rows are tokenised and what happens to long ones."""

    train_on: TrainOn
    max_length: int
    overlength: str


def peek_format(records: Iterator[Record], spec: DatasetSpec) -> tuple[RowFormat | None, Iterator[Record]]:
    """The rows' format, named or found in the first ones, and all the records. None where there is no record.

    Raises DatasetInvalid where the columns of none of the first records fit a format.
    """
    head = list(islice(records, PEEKED_RECORDS))
    found = spec.format or (detect_format([record.columns for record in head], spec.columns) if head else None)
    return found, chain(head, records)


def tokenise(
    records: Iterable[Record],
    path: Path,
    *,
    row_format: RowFormat | None,
    spec: DatasetSpec,
    tokenizer: RowTokenizer,
    limits: Limits,
    bad: BadRows,
) -> RowSet:
    """Tokenise all records into a file of EVAL_SCHEMA. `bad` holds what the source could not even read."""
    rows = RowSet(path=path, bad=bad)

    def drafts() -> Iterator[tuple[str, Draft]]:
        for record in records:
            assert row_format, "where there are records there is a format"
            try:
                row = normalise(record.columns, row_format, spec.columns)
                empty = _is_empty(row, limits.train_on)
                draft = None if empty else tokenizer.draft(row, limits.train_on)
            except RowError as error:
                bad.add(record.where, str(error))
                continue
            rows.read += 1
            if draft:
                yield record.where, draft
            else:
                rows.report.dropped[DropReason.EMPTY_ANSWER] += 1

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _batched(drafts(), ROWS_PER_BATCH):
            encoded = tokenizer.encode([draft for _, draft in batch])
            limited = (_limit(row, where, rows, limits) for (where, _), row in zip(batch, encoded, strict=True))
            kept = [row for row in limited if row]
            for row in kept:
                _note(rows, row)
            yield _record_batch(kept)

    write_rows(path, batches())
    rows.read += bad.count
    if bad.count:
        rows.report.dropped[DropReason.BAD_ROW] = bad.count
    return rows


def _is_empty(row: Row, train_on: TrainOn) -> bool:
    """Whether there is nothing to learn in the row but to end."""
    match row:
        case Text(text=text):
            return not text.strip()
        case Completion(completion=completion):
            return not completion.strip()
        case Conversation(turns=turns):
            answers = [turn for turn in turns if turn.role == "assistant"]
            wanted = answers[-1:] if train_on == "lastAnswer" else answers
            return not any(turn.content.strip() or "tool_calls" in turn.extra for turn in wanted)


def _limit(row: TokenRow, where: str, rows: RowSet, limits: Limits) -> TokenRow | None:
    """The row as it is kept, or None where it is dropped."""
    report, length = rows.report, len(row.input_ids)
    report.lengths.append(length)
    if length > limits.max_length:
        if limits.overlength == "drop":
            report.dropped[DropReason.TOO_LONG] += 1
            return None
        if limits.overlength == "fail":
            rows.overlong.add(where, f"has {length} tokens")
            return None
        report.truncated += 1
        row = TokenRow(
            input_ids=row.input_ids[: limits.max_length],
            completion_mask=row.completion_mask[: limits.max_length],
            prompt_length=min(row.prompt_length, limits.max_length),
            prompt=row.prompt,
            completion=row.completion,
        )
    if not row.trained_tokens:
        report.dropped[DropReason.NOTHING_TO_TRAIN] += 1
        return None
    return row


def _note(rows: RowSet, row: TokenRow) -> None:
    contents = array("i", row.input_ids).tobytes() + bytes(row.completion_mask)
    rows.digests.append(hashlib.sha256(contents).digest()[:DIGEST_BYTES])
    prompt = array("i", row.input_ids[: row.prompt_length]).tobytes()
    rows.prompts.append(hashlib.sha256(prompt).digest()[:DIGEST_BYTES])
    rows.lengths.append(len(row.input_ids))
    rows.trained.append(row.trained_tokens)


def _record_batch(rows: Sequence[TokenRow]) -> pa.RecordBatch:
    columns = {name: [getattr(row, name) for row in rows] for name in EVAL_SCHEMA.names}
    return pa.RecordBatch.from_pydict(columns, schema=EVAL_SCHEMA)


def _batched(items: Iterator[tuple[str, Draft]], size: int) -> Iterator[list[tuple[str, Draft]]]:
    while batch := list(islice(items, size)):
        yield batch
