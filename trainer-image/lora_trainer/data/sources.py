"""Reads the rows of data files, one at a time. Knows places, archives and compressions; nothing of what rows mean."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.file_types import READERS, Found
from lora_trainer.data.hub_splits import DEFAULT, of_split, split_of
from lora_trainer.data.layouts import columns_of
from lora_trainer.data.places import DataFile, Place
from lora_trainer.data.report import BadRows
from lora_trainer.data.values import ValueFlaw, check_columns
from lora_trainer.errors import TrainerError, first_sentence

DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files that describe a dataset instead of holding its rows."""
KEPT_RESULTS = "cache-*.arrow"
"""What `Dataset.map` and `filter` write beside the rows that `save_to_disk` wrote."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row as it is in its file."""

    where: str
    """File and line (or row), for messages: train.jsonl:17."""
    columns: Mapping[str, Any]


def read_records(place: Place, *, uri: str, scratch: Path, bad: BadRows, label: str = "") -> Iterator[Record]:
    """The rows of a place's data files, in the order of their names.

    A row that cannot be read is noted in `bad`, and reading continues. `label` precedes every file's name in
    messages. Raises DatasetNotFound where no file is of the place's split, DatasetInvalid where there is no data file,
    or one that cannot be read at all. Holds one file in `scratch` at a time.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for file in _data_files(place, uri):
        local = scratch / Path(file.name).name
        try:
            file.fetch(local)
            for where, value in _read_file(local, label + file.name, bad):
                try:
                    columns = columns_of(value)
                    check_columns(columns)
                except ValueFlaw as flaw:
                    bad.add(where, str(flaw))
                else:
                    yield Record(where=where, columns=columns)
        finally:
            local.unlink(missing_ok=True)


def _data_files(place: Place, uri: str) -> list[DataFile]:
    """The files of a place that hold rows."""
    data = [file for file in place.files if _is_data(file.name) and (place.single or not _beside_data(file.name))]
    if data:
        return data if place.split is None else _in_split(data, place.split, uri)
    if place.single:
        raise _unknown_type(f"{uri} is not a file of a supported type")
    found = ", ".join(file.name for file in place.files[:5])
    raise _unknown_type(f"The folder {uri} has no file of a supported type (found {found})")


def _in_split(files: list[DataFile], split: str, uri: str) -> list[DataFile]:
    names = [file.name for file in files]
    if chosen := set(of_split(names, split)):
        return [file for file in files if file.name in chosen]
    splits = ", ".join(sorted({of for name in names if (of := split_of(name))})) or DEFAULT
    raise TrainerError(
        ExitCode.DatasetNotFound,
        f"The dataset {uri} has no split {split}: by the names of its files it has {splits}.",
        "Set dataset.split (evaluation.dataset.split) to one of them, or name files in the URI.",
    )


def _beside_data(name: str) -> bool:
    """Whether a file of a folder or archive lies beside the rows: it is hidden, describes them or is left over."""
    *_, last = parts = name.split("/")
    hidden = any(part.startswith((".", "_")) for part in parts)
    return hidden or last in DESCRIPTIONS or fnmatchcase(last, KEPT_RESULTS)


def _unknown_type(what: str) -> TrainerError:
    return TrainerError(
        ExitCode.DatasetInvalid,
        f"{what}.",
        "Use .jsonl, .json, .csv, .parquet or the .arrow files of save_to_disk; the first three may end in"
        f" {', '.join(DECOMPRESSORS)} or .zip.",
    )


def _read_file(path: Path, name: str, bad: BadRows) -> Iterator[Found]:
    try:
        if path.suffix.lower() == ".zip":
            yield from _read_archive(path, name, bad)
        else:
            with _opened(path) as stream:
                yield from READERS[_file_type(name)](stream, name, bad)
    except READ_ERRORS as error:
        reason = first_sentence(str(error)) or type(error).__name__
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"{name} cannot be read: {reason}.",
            "Upload a complete file whose type matches its name.",
        ) from None


def _read_archive(path: Path, name: str, bad: BadRows) -> Iterator[Found]:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        names = sorted(member for member in members if _file_type(member) in READERS and not _beside_data(member))
        if not names:
            raise _unknown_type(f"The archive {name} has no file of a supported type")
        for member in names:
            with archive.open(member) as stream:
                yield from READERS[_file_type(member)](cast(BinaryIO, stream), f"{name}/{member}", bad)


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
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,  # raised by Arrow for a length in a damaged file
    struct.error,
    pa.ArrowException,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # raised by zipfile for an archive with a password
)
"""What the libraries raise for bytes that are no file of their type."""


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
