"""Reads the rows of a data set from a bucket or volume, one at a time. Knows file types; nothing of what rows mean."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.report import BadRows
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket

COMPRESSIONS = (".gz", ".zst")
LARGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row as it stands in its file."""

    where: str
    """File and line (or row), for messages: train.jsonl:17."""
    columns: Mapping[str, Any]


def read_records(uri: str, *, bucket: Bucket, scratch: Path, bad: BadRows) -> Iterator[Record]:
    """The rows of a file, or of every data file below a folder in the order of their names.

    A row that cannot be parsed is noted in `bad`, and reading goes on. Raises DatasetNotFound where there is nothing,
    DatasetInvalid where there is no data file or one that cannot be read at all. Holds one file in `scratch` at a time.
    """
    for name, file_uri in _data_files(uri, bucket):
        local = scratch / Path(name).name
        try:
            bucket.download(file_uri, local)
            yield from _read_file(local, name, bad)
        finally:
            local.unlink(missing_ok=True)


def _data_files(uri: str, bucket: Bucket) -> list[tuple[str, str]]:
    """(name for messages, URI) of every data file."""
    if bucket.exists(uri):
        name = uri.rstrip("/").rpartition("/")[2]
        if _reader(name) is None:
            raise _unknown_type(f"{uri} is not of a known type")
        return [(name, uri)]
    names = [file.path for file in bucket.list(uri)]
    if not names:
        raise TrainerError(
            ExitCode.DatasetNotFound,
            f"There is no data set at {uri}: neither a file nor a folder with files.",
            "Upload it, or correct dataset.uri (evaluation.datasetUri).",
        )
    data = [name for name in names if _reader(name) is not None and not _hidden(name)]
    if not data:
        raise _unknown_type(f"The folder {uri} has no file of a known type (found {', '.join(names[:5])})")
    return [(name, f"{uri.rstrip('/')}/{name}") for name in data]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _unknown_type(what: str) -> TrainerError:
    return TrainerError(
        ExitCode.DatasetInvalid,
        f"{what}.",
        "Use .jsonl, .json, .csv or .parquet; the first three may end in .gz or .zst.",
    )


def _read_file(path: Path, name: str, bad: BadRows) -> Iterator[Record]:
    reader = _reader(name)
    assert reader is not None, "only files with a reader are listed"
    try:
        with _opened(path) as stream:
            yield from reader(stream, name, bad)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainerError(
            ExitCode.DatasetInvalid, f"{name} cannot be read: {reason}.", "Upload a whole file of the type it is named."
        ) from None


def _opened(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))
    return path.open("rb")


Reader = Callable[[BinaryIO, str, BadRows], Iterator[Record]]


def _reader(name: str) -> Reader | None:
    stem = name.lower()
    for ending in COMPRESSIONS:
        stem = stem.removesuffix(ending)
    return READERS.get(Path(stem).suffix)


def _jsonl(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Record]:
    for number, line in enumerate(stream, start=1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            # Without its line break, behind which an error of the line's end would be placed.
            value = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            bad.add(where, f"not UTF-8 at byte {error.start + 1} of the line")
        except json.JSONDecodeError as error:
            bad.add(where, f"not JSON: {error.msg} at column {error.colno}")
        else:
            if isinstance(value, dict):
                yield Record(where=where, columns=value)
            else:
                bad.add(where, "not a JSON object")


def _json(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Record]:
    try:
        value = json.loads(stream.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        # Many .json files are JSON lines: an error behind a whole first value means that.
        if error.msg == "Extra data":
            stream.seek(0)
            yield from _jsonl(stream, name, bad)
        else:
            bad.add(f"{name}:{error.lineno}", f"not JSON: {error.msg} at column {error.colno}")
        return
    # {"data": [...]} is how some exports wrap their rows.
    lists = [item for item in value.values() if isinstance(item, list)] if isinstance(value, dict) else []
    rows = value if isinstance(value, list) else lists[0] if len(lists) == 1 and len(value) == 1 else [value]
    for number, row in enumerate(rows, start=1):
        where = f"{name}: row {number}"
        if isinstance(row, dict):
            yield Record(where=where, columns=row)
        else:
            bad.add(where, "not a JSON object")


def _csv(stream: BinaryIO, name: str, bad: BadRows) -> Iterator[Record]:
    csv.field_size_limit(LARGEST_FIELD)
    lines = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    start = 2
    for columns in lines:
        where, start = f"{name}:{start}", lines.line_num + 1
        if None in columns or None in columns.values():
            bad.add(where, f"has another number of columns than the header's {len(lines.fieldnames or [])}")
        else:
            yield Record(where=where, columns=columns)


def _parquet(stream: BinaryIO, name: str, _: BadRows) -> Iterator[Record]:
    number = 0
    with pq.ParquetFile(stream) as file:
        for batch in file.iter_batches(batch_size=1000):
            for columns in batch.to_pylist():
                number += 1
                yield Record(where=f"{name}: row {number}", columns=columns)


READERS: Mapping[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
