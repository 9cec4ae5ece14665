"""From records to tokenised rows on disk. A batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from lora_trainer.contract.spec import DatasetSpec, Method, RowFormat
from lora_trainer.data.encoders import RowEncoder, TokenisedRow
from lora_trainer.data.formats import RowError, detect_format
from lora_trainer.data.report import BadRows, DropReason, RowReport
from lora_trainer.data.sources import Record
from lora_trainer.prepared import ROWS_PER_BATCH, write_rows

DIGEST_BYTES = 16
PEEKED_RECORDS = 100
"""Records among which one must have columns of a known format."""


@dataclass(kw_only=True)
class RowSet:
    """Tokenised rows in a file, and what is known of each without reading it again."""

    path: Path
    encoder: RowEncoder
    report: RowReport = field(default_factory=RowReport)
    bad: BadRows = field(default_factory=BadRows)
    """Rows that cannot be used."""
    overlong: BadRows = field(default_factory=BadRows)
    """Rows that are too long, with dataset.overlength: fail."""
    read: int = 0
    """All rows, bad ones too."""
    digests: list[bytes] = field(default_factory=list)
    """Of what is trained on, row by row: equal rows have equal digests."""
    prompts: list[bytes] = field(default_factory=list)
    """Digests of what asks for the last answer, row by row."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of the longest sequence, row by row."""
    tokens: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of all sequences, row by row."""
    trained: array[int] = field(default_factory=lambda: array("i"))
    """Tokens that count in the loss, row by row."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What happens to long rows."""

    max_length: int
    overlength: str


def peek_format(
    records: Iterator[Record], spec: DatasetSpec, method: Method
) -> tuple[RowFormat | None, Iterator[Record]]:
    """The rows' format, named or found in the first ones, and all the records. None where there is no record.

    Raises DatasetInvalid where the columns of none of the first records fit a format.
    """
    head = list(islice(records, PEEKED_RECORDS))
    found = spec.format or (detect_format([record.columns for record in head], spec.columns, method) if head else None)
    return found, chain(head, records)


def tokenise(records: Iterable[Record], path: Path, *, encoder: RowEncoder, limits: Limits, bad: BadRows) -> RowSet:
    """Tokenise all records into a file of the encoder's columns. `bad` holds what the source could not even read."""
    rows = RowSet(path=path, encoder=encoder, bad=bad)

    def drafts() -> Iterator[tuple[str, Any]]:
        for record in records:
            try:
                draft = encoder.draft(record.columns)
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
            encoded = encoder.encode([draft for _, draft in batch])
            limited = (_limit(row, where, rows, limits) for (where, _), row in zip(batch, encoded, strict=True))
            kept = [row for row in limited if row]
            for row in kept:
                _note(rows, row)
            yield _record_batch(kept, encoder.schemas.held_out)

    write_rows(path, batches(), schema=encoder.schemas.held_out)
    rows.read += bad.count
    if bad.count:
        rows.report.dropped[DropReason.BAD_ROW] = bad.count
    return rows


def _limit(row: TokenisedRow, where: str, rows: RowSet, limits: Limits) -> TokenisedRow | None:
    """The row as it is kept, or None where it is dropped."""
    report, length = rows.report, row.length
    report.lengths.append(length)
    if length > limits.max_length:
        if limits.overlength == "drop":
            report.dropped[DropReason.TOO_LONG] += 1
            return None
        if limits.overlength == "fail":
            rows.overlong.add(where, f"has {length} tokens")
            return None
        report.truncated += 1
        row = row.truncated(limits.max_length)
    if not row.trained_tokens:
        report.dropped[DropReason.NOTHING_TO_TRAIN] += 1
        return None
    return row


def _note(rows: RowSet, row: TokenisedRow) -> None:
    rows.digests.append(_digest(row.contents()))
    rows.prompts.append(_digest(array("i", row.prompt_ids).tobytes()))
    rows.lengths.append(row.length)
    rows.tokens.append(row.tokens)
    rows.trained.append(row.trained_tokens)


def _digest(contents: bytes) -> bytes:
    return hashlib.sha256(contents).digest()[:DIGEST_BYTES]


def _record_batch(rows: Sequence[TokenisedRow], schema: pa.Schema) -> pa.RecordBatch:
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _batched(items: Iterator[tuple[str, Any]], size: int) -> Iterator[list[tuple[str, Any]]]:
    while batch := list(islice(items, size)):
        yield batch
