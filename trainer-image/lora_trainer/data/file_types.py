"""File types of data files: one reader each, from bytes to the values of rows. Knows nothing of what rows mean.

A reader gives each row with its place. It notes a row that it cannot read, and continues with the next.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.layouts import rows_of
from lora_trainer.data.report import BadRows
from lora_trainer.data.values import ValueFlaw, parse_json
from lora_trainer.errors import TrainerError, first_sentence

LARGEST_FIELD = 2**31 - 1
ROWS_AT_ONCE = 1000
WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""First bytes of UTF-16; those of UTF-32 begin with them or with zeros."""
SEPARATORS = (",", ";", "\t")
MISMATCHED = 'not CSV: its quotes do not match (a quote inside a quoted value is written twice, "")'
SAVE_AS_UTF8 = "save the file as UTF-8"

Found = tuple[str, Any]
"""Place of a row, for messages (train.jsonl:17), and its value."""
Reader = Callable[[BinaryIO, str, BadRows], Iterator[Found]]


def _jsonl(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Found]:
    for number, line in enumerate(_utf8(stream, name), start=1):
        where = f"{name}:{number}"
        # Files that were joined have a mark in the middle.
        content = line.removeprefix(codecs.BOM_UTF8).strip()
        if not content:
            continue
        try:
            yield where, parse_json(content.decode())
        except UnicodeDecodeError as error:
            byte = content[error.start]
            bad.add(where, f"not UTF-8 at byte {error.start + 1} of the line (0x{byte:02x}): {SAVE_AS_UTF8}")
        except json.JSONDecodeError as error:
            bad.add(where, _not_json(error, content.decode()))
        except ValueFlaw as flaw:
            bad.add(where, str(flaw))


def _not_json(error: json.JSONDecodeError, line: str) -> str:
    reason = f"not JSON: {error.msg} at column {error.colno}"
    if error.pos < len(line):
        return reason
    return f"{reason}, where the line ends: write each row on one line, or name a file that is one array .json"


def _json(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Found]:
    data = _utf8(stream, name).read().removeprefix(codecs.BOM_UTF8)
    try:
        value = parse_json(data.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, ValueFlaw) as error:
        if _is_lines(data, error):
            yield from _jsonl(io.BufferedReader(io.BytesIO(data)), name, bad)
        else:
            bad.add(*_flaw(data, name, error))
    else:
        for number, row in enumerate(rows_of(value), start=1):
            yield f"{name}: row {number}", row


def _is_lines(data: bytes, error: ValueError) -> bool:
    """Whether a .json file that is not one value is JSON lines, as many are.

    An error behind a whole first value means that. Otherwise most of its lines are values, but for the one that has the
    error: a value on several lines has few that are values themselves.
    """
    if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
        return True
    lines = [line for line in data.splitlines() if line.strip()]
    return 2 * sum(map(_is_value, lines)) > len(lines)


def _is_value(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line.decode()), dict | list)
    except ValueError:
        return False


def _flaw(data: bytes, name: str, error: ValueError) -> tuple[str, str]:
    """Where a file that is one JSON value has its error, and which."""
    match error:
        case UnicodeDecodeError():
            line = data.count(b"\n", 0, error.start) + 1
            return f"{name}:{line}", _not_utf8(data[error.start])
        case json.JSONDecodeError():
            return f"{name}:{error.lineno}", f"not JSON: {error.msg} at column {error.colno}"
        case _:
            return name, str(error)


def _csv(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Found]:
    # A byte that is not UTF-8 spoils its own row only.
    lines = io.TextIOWrapper(_utf8(stream, name), encoding="utf-8-sig", errors="surrogateescape", newline="")
    header: list[str] | None = None
    for number, row in _csv_rows(lines):
        where = f"{name}:{number}"
        flaw = MISMATCHED if row is None else _foreign_byte(row)
        if row is None or flaw:
            if header is None:
                raise _unreadable(f"{where}: the header is {flaw}", "Correct the first line of the file.")
            bad.add(where, flaw)
        elif header is None:
            header = row
        elif len(row) != len(header):
            bad.add(where, f"does not have the {len(header)} columns of the header")
        else:
            yield where, dict(zip(header, row, strict=True))


def _csv_rows(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Every row with the number of its first line, None where its quotes do not match.

    A quote that nothing closes takes the lines behind it into its value, so that they are read again after it.
    """
    csv.field_size_limit(LARGEST_FIELD)
    first_line = next(lines, "")
    separator = next((mark for mark in SEPARATORS if mark in first_line), ",")
    ahead = deque([first_line])
    taken: list[str] = []

    def supply() -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            taken.append(line)
            yield line

    number = 1
    rows = csv.reader(supply(), delimiter=separator, strict=True)
    while True:
        try:
            row = next(rows, [])
        except csv.Error:
            row = None
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
            rows = csv.reader(supply(), delimiter=separator, strict=True)
        if not taken:
            return
        if row or row is None:
            yield number, row
        number += len(taken)
        taken.clear()


def _foreign_byte(row: Iterable[str]) -> str:
    """What is wrong with a row that has a byte which is not UTF-8, which its text holds as a lone surrogate."""
    text = "".join(row)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return _not_utf8(ord(text[error.start]) & 0xFF)
    return ""


def _not_utf8(byte: int) -> str:
    return f"not UTF-8 (byte 0x{byte:02x}): {SAVE_AS_UTF8}"


def _parquet(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Found]:
    with pq.ParquetFile(stream) as file:
        yield from _arrow_rows(file.iter_batches(batch_size=ROWS_AT_ONCE), name, bad)


def _arrow(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Found]:
    """The stream format, which `Dataset.save_to_disk` writes."""

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                # Nothing else looks at offsets before they are followed.
                batch.validate(full=True)
                yield from (batch.slice(start, ROWS_AT_ONCE) for start in range(0, batch.num_rows, ROWS_AT_ONCE))

    yield from _arrow_rows(batches(), name, bad)


def _arrow_rows(batches: Iterable[pa.RecordBatch], name: str, bad: BadRows) -> Iterator[Found]:
    number = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except CONVERSION_ERRORS:
            rows = (_arrow_row(batch, index) for index in range(batch.num_rows))
        for row in rows:
            number += 1
            where = f"{name}: row {number}"
            if isinstance(row, ValueFlaw):
                bad.add(where, str(row))
            else:
                yield where, {column: _as_written(value) for column, value in row.items()}


def _arrow_row(batch: pa.RecordBatch, index: int) -> dict[str, Any] | ValueFlaw:
    """One row of a batch in which a value has no form in Python: a date of the year 20000, a text that is not UTF-8."""
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except CONVERSION_ERRORS as error:
            return ValueFlaw(f"the column {name} cannot be read ({first_sentence(str(error))})")
    return row


def _as_written(value: Any) -> Any:
    """The value as JSON has it: Arrow gives every object the keys of all others, with null or NaN for what is not
    there."""
    if isinstance(value, dict):
        return {key: kept for key, item in value.items() if (kept := _as_written(item)) is not None}
    if isinstance(value, list):
        return [_as_written(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _utf8(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream. Raises DatasetInvalid where it is UTF-16 or UTF-32."""
    start = stream.peek(4)[:4]  # pyright: ignore[reportAttributeAccessIssue] - every one here is buffered
    if start.startswith(WIDE_MARKS) or start == codecs.BOM_UTF32_BE:
        raise _unreadable(f"{name} is UTF-16 or UTF-32 instead of UTF-8", "Save it as UTF-8.")
    return stream


def _unreadable(what: str, remedy: str) -> TrainerError:
    return TrainerError(ExitCode.DatasetInvalid, f"{what}.", remedy)


CONVERSION_ERRORS = (ValueError, OverflowError, LookupError, pa.ArrowException)
READERS: Mapping[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
