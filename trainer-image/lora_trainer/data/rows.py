"""From records to tokenised rows on disk, and which of them are held out. A batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec import DatasetSpec, RowFormat
from lora_trainer.data.chat_template import TrainOn
from lora_trainer.data.formats import Completion, Conversation, Row, RowError, Text, detect_format, normalise
from lora_trainer.data.report import BadRows, DropReason, RowReport
from lora_trainer.data.sources import Record
from lora_trainer.data.tokens import Draft, RowTokenizer, TokenRow
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import EVAL_SCHEMA, ROWS_PER_BATCH, write_rows

DIGEST_BYTES = 16


@dataclass(kw_only=True)
class RowSet:
    """Tokenised rows in a file, and what is known of each without reading it again."""

    path: Path
    report: RowReport = field(default_factory=RowReport)
    read: int = 0
    """Rows that could be read."""
    digests: list[bytes] = field(default_factory=list)
    """Of ids and mask, row by row: equal rows have equal digests."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    trained: array[int] = field(default_factory=lambda: array("i"))
    """Tokens that count in the loss, row by row."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How rows are tokenised and what happens to long ones."""

    train_on: TrainOn
    max_length: int
    overlength: str


def peek_format(
    records: Iterator[Record], spec: DatasetSpec, *, uri: str, bad: BadRows
) -> tuple[RowFormat, Iterator[Record]]:
    """The rows' format, named or found in the first one, and all the records. Raises DatasetInvalid without any."""
    first = next(records, None)
    if first is None:
        bad.fail_if_any()
        raise TrainerError(ExitCode.DatasetInvalid, f"The data set {uri} has no rows.", "Upload a data set with rows.")
    return spec.format or detect_format(first.columns, spec.columns), chain((first,), records)


def tokenise(
    records: Iterable[Record],
    path: Path,
    *,
    row_format: RowFormat,
    spec: DatasetSpec,
    tokenizer: RowTokenizer,
    limits: Limits,
    bad: BadRows,
) -> RowSet:
    """Tokenise all records into a file of EVAL_SCHEMA. Raises DatasetInvalid that names the first bad rows."""
    rows = RowSet(path=path)

    def drafts() -> Iterator[tuple[str, Draft]]:
        for record in records:
            rows.read += 1
            try:
                row = normalise(record.columns, row_format, spec.columns)
                if _is_empty(row, limits.train_on):
                    rows.report.dropped[DropReason.EMPTY_ANSWER] += 1
                    continue
                yield record.where, tokenizer.draft(row, limits.train_on)
            except RowError as error:
                bad.add(record.where, str(error))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in _batched(drafts(), ROWS_PER_BATCH):
            encoded = tokenizer.encode([draft for _, draft in batch])
            limited = (
                _limit(row, where, rows.report, limits, bad) for (where, _), row in zip(batch, encoded, strict=True)
            )
            kept = [row for row in limited if row]
            for row in kept:
                _note(rows, row)
            yield _record_batch(kept)

    write_rows(path, batches())
    bad.fail_if_any()
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


def _limit(row: TokenRow, where: str, report: RowReport, limits: Limits, bad: BadRows) -> TokenRow | None:
    """The row as it is kept, or None where it is dropped."""
    length = len(row.input_ids)
    report.lengths.append(length)
    if length > limits.max_length:
        if limits.overlength == "drop":
            report.dropped[DropReason.TOO_LONG] += 1
            return None
        if limits.overlength == "fail":
            bad.add(where, f"has {length} tokens, and model.maxSeqLength is {limits.max_length}")
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
    rows.lengths.append(len(row.input_ids))
    rows.trained.append(row.trained_tokens)


def _record_batch(rows: Sequence[TokenRow]) -> pa.RecordBatch:
    columns = {name: [getattr(row, name) for row in rows] for name in EVAL_SCHEMA.names}
    return pa.RecordBatch.from_pydict(columns, schema=EVAL_SCHEMA)


def _batched(items: Iterator[tuple[str, Draft]], size: int) -> Iterator[list[tuple[str, Draft]]]:
    while batch := list(islice(items, size)):
        yield batch


def hold_out(digests: Sequence[bytes], *, seed: int, rows: int) -> list[bool]:
    """Which rows are evaluated on: `rows` of them, chosen by a hash of seed and contents, so in any order of the data.

    A row that stands in the data set twice is never chosen, as its twin would be trained on.
    """
    counts = Counter(digests)
    key = seed.to_bytes(8, "big")
    singles = sorted(
        (hashlib.sha256(key + digest).digest(), index) for index, digest in enumerate(digests) if counts[digest] == 1
    )
    chosen = {index for _, index in singles[:rows]}
    return [index in chosen for index in range(len(digests))]


def first_of_each(digests: Sequence[bytes], *, seed: int, rows: int) -> list[bool]:
    """At most `rows` of an evaluation set, none of them twice, chosen the same way."""
    key = seed.to_bytes(8, "big")
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    chosen = {
        first[digest] for digest in sorted(first, key=lambda digest: hashlib.sha256(key + digest).digest())[:rows]
    }
    return [index in chosen for index in range(len(digests))]


def duplicates(digests: Sequence[bytes]) -> int:
    """Rows that stand in the data set already."""
    return len(digests) - len(set(digests))


def not_in(digests: Sequence[bytes], others: Set[bytes]) -> list[bool]:
    """For each row whether it is not among the others."""
    return [digest not in others for digest in digests]


def data_digest(trained: Iterable[bytes], evaluated: Iterable[bytes]) -> str:
    """sha256 of the tokenised rows: those trained on in their order, then those evaluated on."""
    digest = hashlib.sha256()
    for part in (trained, evaluated):
        for row in part:
            digest.update(row)
        digest.update(b"\0" * (DIGEST_BYTES + 1))
    return digest.hexdigest()
