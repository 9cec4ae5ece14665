"""Reads the rows of data files, one at a time. Knows file types and compressions; nothing of what rows mean."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.places import DataFile, Place
from lora_trainer.data.report import BadRows
from lora_trainer.errors import TrainerError, first_sentence

LARGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row as it is in its file."""

    where: str
    """File and line (or row), for messages: train.jsonl:17."""
    columns: Mapping[str, Any]


def read_records(place: Place, *, uri: str, scratch: Path, bad: BadRows, label: str = "") -> Iterator[Record]:
    """The rows of a place's data files, in the order of their names.

    A row that cannot be parsed is noted in `bad`, and reading continues. `label` precedes every file's name in
    messages. Raises DatasetInvalid where there is no data file, or one that cannot be read at all. Holds one file in
    `scratch` at a time.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for file in _data_files(place, uri):
        local = scratch / Path(file.name).name
        try:
            file.fetch(local)
            yield from _read_file(local, label + file.name, bad)
        finally:
            local.unlink(missing_ok=True)


def _data_files(place: Place, uri: str) -> list[DataFile]:
    """The files of a place that hold rows."""
    data = [file for file in place.files if _is_data(file.name) and (place.single or not _hidden(file.name))]
    if data:
        return data
    if place.single:
        raise _unknown_type(f"{uri} is not a file of a supported type")
    found = ", ".join(file.name for file in place.files[:5])
    raise _unknown_type(f"The folder {uri} has no file of a supported type (found {found})")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _unknown_type(what: str) -> TrainerError:
    return TrainerError(
        ExitCode.DatasetInvalid,
        f"{what}.",
        f"Use .jsonl, .json, .csv or .parquet; the first three may end in {', '.join(DECOMPRESSORS)} or .zip.",
    )


def _read_file(path: Path, name: str, bad: BadRows) -> Iterator[Record]:
    try:
        if path.suffix.lower() == ".zip":
            yield from _read_archive(path, name, bad)
        else:
            with _opened(path) as stream:
                yield from _reader(name)(stream, name, bad)
    except READ_ERRORS as error:
        reason = first_sentence(str(error)) or type(error).__name__
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"{name} cannot be read: {reason}.",
            "Upload a complete file whose type matches its name.",
        ) from None


def _read_archive(path: Path, name: str, bad: BadRows) -> Iterator[Record]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(member for member in archive.namelist() if _file_type(member) in READERS and not _hidden(member))
        if not names:
            raise _unknown_type(f"The archive {name} has no file of a supported type")
        for member in names:
            with archive.open(member) as stream:
                yield from _reader(member)(cast(BinaryIO, stream), f"{name}/{member}", bad)


def _opened(path: Path) -> BinaryIO:
    decompress = DECOMPRESSORS.get(path.suffix.lower())
    return decompress(path) if decompress else path.open("rb")


def _with_arrow(codec: str) -> Callable[[Path], BinaryIO]:
    return lambda path: cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), codec)))


DECOMPRESSORS: Mapping[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.GzipFile(path)),
    ".bz2": lambda path: cast(BinaryIO, bz2.BZ2File(path)),
    ".xz": lambda path: cast(BinaryIO, lzma.LZMAFile(path)),  # noqa: SIM115 - the reader closes it
    ".zst": _with_arrow("zstd"),
    ".lz4": _with_arrow("lz4"),
}
READ_ERRORS = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    csv.Error,
    pa.ArrowException,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # raised by zipfile for an archive with a password
)

Reader = Callable[[BinaryIO, str, BadRows], Iterator[Record]]


def _is_data(name: str) -> bool:
    """Whether a file holds rows, going by its name."""
    kind = _file_type(name)
    if kind == ".zip":
        return True
    return kind in READERS and (kind != ".parquet" or name.lower().endswith(kind))


def _file_type(name: str) -> str:
    """The ending of a name without that of its compression."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in DECOMPRESSORS else path.suffix


def _reader(name: str) -> Reader:
    return READERS[_file_type(name)]


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
    data = stream.read()
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        # Many .json files are JSON lines: an error behind a whole first value means that.
        if error.msg == "Extra data":
            yield from _jsonl(io.BytesIO(data), name, bad)
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
            bad.add(where, f"does not have the {len(lines.fieldnames or [])} columns of the header")
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
