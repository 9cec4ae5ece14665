"""From records to tokenised rows on disk. A batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")

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
    """Tokenised rows in a file, and what is known of each without reading it again.

    A row is one sample of the file, or several where each of its answers became one: then they stand together.
    """

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
    """Of what is trained on, sample by sample: equal samples have equal digests."""
    prompts: list[bytes] = field(default_factory=list)
    """Digests of the prompt of the last answer, sample by sample."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of the longest sequence, sample by sample."""
    tokens: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of all sequences, sample by sample."""
    trained: array[int] = field(default_factory=lambda: array("i"))
    """Tokens that count in the loss, sample by sample."""
    row: array[int] = field(default_factory=lambda: array("q"))
    """Number of its row, sample by sample, in ascending order without a gap."""
    source: array[int] = field(default_factory=lambda: array("B"))
    """Number of its source, row by row."""
    unused: Sequence[UnusedValues] = ()
    """Columns and keys that change nothing, source by source."""
    system: SystemMessage = field(default_factory=SystemMessage)
    """What the rows that are kept begin with."""

    def by_row(self, values: Iterable[T]) -> Iterator[list[T]]:
        """The values of all samples, row by row."""
        for _, group in groupby(zip(self.row, values, strict=True), key=itemgetter(0)):
            yield [value for _, value in group]

    def row_digests(self) -> list[bytes]:
        """Of what is trained on, row by row: equal rows have equal digests."""
        return [each[0] if len(each) == 1 else _digest(b"".join(each)) for each in self.by_row(self.digests)]

    def row_times(self, times: Iterable[int]) -> list[int]:
        """How often each row is used, of which each sample is used so many `times` or not at all."""
        return [max(each) for each in self.by_row(times)]


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """A row between reading and tokenising."""

    where: str
    source: int
    samples: Sequence[Any]
    """At least one."""


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
                    samples = encoders[index].draft(record.columns)
                except RowError as error:
                    bad.add(record.where, str(error))
                    continue
                rows.read += 1
                if samples:
                    unused[index].look_at(record.columns, samples)
                    yield Drafted(where=record.where, source=index, samples=samples)
                else:
                    rows.report.dropped[DropReason.EMPTY_ANSWER] += 1

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _batched(drafts(), ROWS_PER_BATCH):
            encoded = iter(rows.encoder.encode([sample for row in batch for sample in row.samples]))
            kept = [sample for row in batch for sample in _kept(list(islice(encoded, len(row.samples))), row, rows)]
            yield _record_batch(kept, rows.encoder.schemas.held_out)

    write_rows(path, batches(), schema=rows.encoder.schemas.held_out)
    rows.read += bad.count
    if bad.count:
        rows.report.dropped[DropReason.BAD_ROW] = bad.count
    return rows


def _kept(samples: Sequence[TokenisedRow], drafted: Drafted, rows: RowSet) -> list[TokenisedRow]:
    """The samples of one row that are kept, after what is known of them is noted."""
    report, limits = rows.report, rows.limits
    longest = max(sample.length for sample in samples)
    report.lengths.extend(sample.length for sample in samples)
    if longest > limits.max_length:
        if limits.overlength is Overlength.FAIL:
            rows.overlong.add(drafted.where, f"has {longest} tokens")
            return []
        report.truncated += limits.overlength is Overlength.TRUNCATE
    limited = [_limited(sample, limits) for sample in samples]
    kept = [sample for sample in limited if not isinstance(sample, DropReason)]
    left_out = [reason for reason in limited if isinstance(reason, DropReason)]
    if len(samples) > 1:
        report.note_answers(samples=len(samples), left_out=left_out)
    if not kept:
        report.dropped[left_out[-1]] += 1
        return []
    rows.system.look_at(drafted.samples[0].system)
    _note(rows, kept, source=drafted.source)
    return kept


def _limited(sample: TokenisedRow, limits: Limits) -> TokenisedRow | DropReason:
    """The sample as it is kept, or why it is left out."""
    if sample.length > limits.max_length:
        if limits.overlength is not Overlength.TRUNCATE:
            return DropReason.TOO_LONG
        sample = sample.truncated(limits.max_length)
    return sample if sample.teaches else DropReason.NOTHING_TO_TRAIN


def _note(rows: RowSet, samples: Sequence[TokenisedRow], *, source: int) -> None:
    number = len(rows.source)
    rows.source.append(source)
    for sample in samples:
        rows.row.append(number)
        rows.digests.append(_digest(sample.contents()))
        rows.prompts.append(_digest(array("i", sample.prompt_ids).tobytes()))
        rows.lengths.append(sample.length)
        rows.tokens.append(sample.tokens)
        rows.trained.append(sample.trained_tokens)


def _digest(contents: bytes) -> bytes:
    return hashlib.sha256(contents).digest()[:DIGEST_BYTES]


def _record_batch(samples: Sequence[TokenisedRow], schema: pa.Schema) -> pa.RecordBatch:
    columns = {name: [getattr(sample, name) for sample in samples] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _batched(rows: Iterator[Drafted], size: int) -> Iterator[list[Drafted]]:
    """Whole rows that have `size` samples together, or a few more."""
    batch, samples = list[Drafted](), 0
    for row in rows:
        batch.append(row)
        samples += len(row.samples)
        if samples >= size:
            yield batch
            batch, samples = [], 0
    if batch:
        yield batch
