"""From records to tokenised rows on disk. A batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from lora_trainer.contract.spec.dataset import Overlength, RowFormat, SourceSpec
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import RowEncoder, TokenisedRow
from lora_trainer.data.formats import detect_format
from lora_trainer.data.places import find
from lora_trainer.data.report import BadRows, DropReason, RowReport
from lora_trainer.data.sources import Record, read_records
from lora_trainer.data.system_message import SystemMessage
from lora_trainer.data.unused import UnusedValues
from lora_trainer.prepared import ROWS_PER_BATCH, write_rows
from lora_trainer.storage import Bucket

DIGEST_BYTES = 16
PEEKED_RECORDS = 100
"""Number of first records of which at least one must have the columns of a known format."""


@dataclass(frozen=True, kw_only=True)
class OpenSource:
    """A source whose rows are not tokenised yet."""

    spec: SourceSpec
    row_format: RowFormat | None
    """Named or found; None where there is no row that could be read."""
    records: Iterator[Record]
    revision: str | None = None
    """Commit of the hub."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long rows are handled."""

    max_length: int
    field: str = "model.maxSeqLength"
    """Field of the spec that sets max_length."""
    overlength: Overlength


@dataclass(kw_only=True)
class RowSet:
    """Tokenised rows in a file, and what is known of each without reading it again."""

    path: Path
    encoder: RowEncoder
    limits: Limits
    report: RowReport = field(default_factory=RowReport)
    bad: BadRows = field(default_factory=BadRows)
    """Rows that cannot be used."""
    overlong: BadRows = field(default_factory=BadRows)
    """Rows that are too long, with dataset.overlength: Fail."""
    read: int = 0
    """All rows, bad ones too."""
    digests: list[bytes] = field(default_factory=list)
    """Of what is trained on, row by row: equal rows have equal digests."""
    prompts: list[bytes] = field(default_factory=list)
    """Digests of the prompt of the last answer, row by row."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of the longest sequence, row by row."""
    tokens: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of all sequences, row by row."""
    trained: array[int] = field(default_factory=lambda: array("i"))
    """Tokens that count in the loss, row by row."""
    source: array[int] = field(default_factory=lambda: array("B"))
    """Number of its source, row by row."""
    unused: Sequence[UnusedValues] = ()
    """Columns and keys that change nothing, source by source."""
    system: SystemMessage = field(default_factory=SystemMessage)
    """What the rows that are kept begin with."""


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """A row between reading and tokenising."""

    where: str
    source: int
    draft: Any


def open_source(
    spec: SourceSpec, method: Method, *, bucket: Bucket, scratch: Path, bad: BadRows, label: str = ""
) -> OpenSource:
    """Find the files of a source and the format of its rows. What cannot be read is noted in `bad`.

    Raises DatasetNotFound or DatasetInvalid, DatasetInvalid also where the columns of none of the first rows fit a
    format, and the errors of hub and storage.
    """
    place = find(spec.address, bucket, split=spec.split)
    records = read_records(place, uri=spec.address, scratch=scratch, bad=bad, label=label)
    row_format, records = peek_format(records, spec, method)
    return OpenSource(spec=spec, row_format=row_format, records=records, revision=place.revision)


def peek_format(
    records: Iterator[Record], spec: SourceSpec, method: Method
) -> tuple[RowFormat | None, Iterator[Record]]:
    """The rows' format, named or found in the first ones, and all the records. None where there is no record."""
    head = list(islice(records, PEEKED_RECORDS))
    found = spec.format or (detect_format([record.columns for record in head], spec.columns, method) if head else None)
    return found, chain(head, records)


def tokenise(
    sources: Sequence[OpenSource],
    path: Path,
    *,
    encoder: Callable[[OpenSource], RowEncoder],
    limits: Limits,
    bad: BadRows,
) -> RowSet:
    """Tokenise all rows into a file of the method's columns. `bad` holds what could not even be read.

    `encoder` gives that of a source; those of one run differ in how they read a record, not in what they make of it.
    """
    encoders = [encoder(source) for source in sources]
    unused = [UnusedValues(each.draft) for each in encoders]
    rows = RowSet(path=path, encoder=encoders[0], limits=limits, bad=bad, unused=unused)

    def drafts() -> Iterator[Drafted]:
        for index, source in enumerate(sources):
            for record in source.records:
                try:
                    draft = encoders[index].draft(record.columns)
                except RowError as error:
                    bad.add(record.where, str(error))
                    continue
                rows.read += 1
                if draft:
                    unused[index].look_at(record.columns, draft)
                    yield Drafted(where=record.where, source=index, draft=draft)
                else:
                    rows.report.dropped[DropReason.EMPTY_ANSWER] += 1

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _batched(drafts(), ROWS_PER_BATCH):
            kept = []
            for drafted, row in zip(batch, rows.encoder.encode([each.draft for each in batch]), strict=True):
                if limited := _limit(row, drafted.where, rows, limits):
                    kept.append(limited)
                    rows.system.look_at(drafted.draft.system)
                    _note(rows, limited, source=drafted.source)
            yield _record_batch(kept, rows.encoder.schemas.held_out)

    write_rows(path, batches(), schema=rows.encoder.schemas.held_out)
    rows.read += bad.count
    if bad.count:
        rows.report.dropped[DropReason.BAD_ROW] = bad.count
    return rows


def _limit(row: TokenisedRow, where: str, rows: RowSet, limits: Limits) -> TokenisedRow | None:
    """The row as it is kept, or None where it is dropped."""
    report, length = rows.report, row.length
    report.lengths.append(length)
    if length > limits.max_length:
        if limits.overlength is Overlength.DROP:
            report.dropped[DropReason.TOO_LONG] += 1
            return None
        if limits.overlength is Overlength.FAIL:
            rows.overlong.add(where, f"has {length} tokens")
            return None
        report.truncated += 1
        row = row.truncated(limits.max_length)
    if not row.teaches:
        report.dropped[DropReason.NOTHING_TO_TRAIN] += 1
        return None
    return row


def _note(rows: RowSet, row: TokenisedRow, *, source: int) -> None:
    rows.digests.append(_digest(row.contents()))
    rows.prompts.append(_digest(array("i", row.prompt_ids).tobytes()))
    rows.lengths.append(row.length)
    rows.tokens.append(row.tokens)
    rows.trained.append(row.trained_tokens)
    rows.source.append(source)


def _digest(contents: bytes) -> bytes:
    return hashlib.sha256(contents).digest()[:DIGEST_BYTES]


def _record_batch(rows: Sequence[TokenisedRow], schema: pa.Schema) -> pa.RecordBatch:
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _batched(items: Iterator[Drafted], size: int) -> Iterator[list[Drafted]]:
    while batch := list(islice(items, size)):
        yield batch
