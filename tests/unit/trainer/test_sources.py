"""Data files of every type, whole and broken, read from a local store."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.places import find
from lora_trainer.data.report import BadRows
from lora_trainer.data.sources import Record, read_records
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket
from obstore.store import LocalStore

ROWS = [{"text": "first"}, {"text": "zweite Zeile äö"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def read(data: Path, path: str, bad: BadRows | None = None) -> list[Record]:
    scratch = data.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    bucket = Bucket(open_store=lambda _: LocalStore(data))
    uri = f"s3://bucket/{path}"
    records = list(read_records(find(uri, bucket), uri=uri, scratch=scratch, bad=bad or BadRows()))
    assert list(scratch.iterdir()) == [], "files are removed once they are read"
    return records


def rows(data: Path, path: str) -> list[dict]:
    return [dict(record.columns) for record in read(data, path)]


def compressed(data: bytes, codec: str = "zstd") -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zipped(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in files.items():
            archive.writestr(name.replace("__", "."), contents)
    return sink.getvalue()


def id_of(value: object) -> str:
    """Names of tests without contents: some hold the time, and parallel workers must find the same names."""
    return value if isinstance(value, str) else "-"


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.jsonl", JSONL),
        ("a.ndjson", b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n") + b"\n\n"),
        ("a.JSONL", JSONL),
        ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("a.jsonl.zst", compressed(JSONL)),
        ("a.jsonl.lz4", compressed(JSONL, "lz4")),
        ("a.jsonl.bz2", bz2.compress(JSONL)),
        ("a.jsonl.xz", lzma.compress(JSONL)),
        ("a.json.zst", compressed(JSONL)),
        ("a.zip", zipped(README__md=b"rows", a__jsonl=JSONL)),
        ("a.csv.zip", zipped(a__csv="text\nfirst\nzweite Zeile äö\n".encode())),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", JSONL),
        ("a.json", json.dumps({"data": ROWS}).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.csv", "text\nfirst\nzweite Zeile äö\n".encode()),
        ("a.csv.gz", gzip.compress("text\nfirst\nzweite Zeile äö\n".encode("utf-8-sig"), mtime=0)),
    ],
    ids=id_of,
)
def test_every_type_gives_the_same_rows(data: Path, name: str, contents: bytes) -> None:
    (data / name).write_bytes(contents)
    assert rows(data, name) == ROWS


def test_parquet(data: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), data / "a.parquet")
    assert rows(data, "a.parquet") == ROWS
    assert [record.where for record in read(data, "a.parquet")] == ["a.parquet: row 1", "a.parquet: row 2"]


def test_lines_of_a_csv_file_are_counted_over_quoted_line_breaks(data: Path) -> None:
    (data / "a.csv").write_text('text,b\n"one\ntwo",1\nthree,2\nfour\n')
    bad = BadRows()
    assert [record.where for record in read(data, "a.csv", bad)] == ["a.csv:2", "a.csv:4"]
    assert bad.shown() == "a.csv:5: does not have the 2 columns of the header"


def test_a_folder_is_read_in_the_order_of_its_names(data: Path) -> None:
    for name in ("set/b.jsonl", "set/a.jsonl", "set/.hidden/c.jsonl", "set/_SUCCESS.json", "set/README.md"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(json.dumps({"text": name}) + "\n")
    assert [row["text"] for row in rows(data, "set")] == ["set/a.jsonl", "set/b.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("set/train-*.jsonl", ["train-0.jsonl", "train-1.jsonl"]),
        ("set/*.jsonl", ["test-0.jsonl", "train-0.jsonl", "train-1.jsonl"]),
        ("set/*/*.jsonl", ["more/train-2.jsonl"]),
        ("*/test-0.jsonl", ["test-0.jsonl"]),
    ],
)
def test_files_by_a_pattern(data: Path, pattern: str, expected: list[str]) -> None:
    for name in ("train-1.jsonl", "train-0.jsonl", "test-0.jsonl", "more/train-2.jsonl"):
        (data / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (data / "set" / name).write_text(json.dumps({"text": name}) + "\n")
    assert [row["text"] for row in rows(data, pattern)] == expected


def test_parquet_in_an_archive(data: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    (data / "a.zip").write_bytes(zipped(rows__parquet=sink.getvalue().to_pybytes()))
    assert rows(data, "a.zip") == ROWS


def test_members_of_an_archive_are_named(data: Path) -> None:
    (data / "a.zip").write_bytes(zipped(b__jsonl=b'{"text": 1', a__jsonl=JSONL))
    bad = BadRows()
    assert [record.where for record in read(data, "a.zip", bad)] == ["a.zip/a.jsonl:1", "a.zip/a.jsonl:2"]
    assert bad.shown().startswith("a.zip/b.jsonl:1: not JSON")


def test_broken_lines_are_noted_and_reading_goes_on(data: Path) -> None:
    (data / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": \n[1]\n\n{"text": "\xff"}\n{"text": "y"}\n')
    bad = BadRows()
    assert [record.where for record in read(data, "a.jsonl", bad)] == ["a.jsonl:1", "a.jsonl:6"]
    assert bad.count == 3
    assert [str(row) for row in bad.first] == [
        "a.jsonl:2: not JSON: Expecting value at column 9, where the line ends: write each row on one line, or name a"
        " file that is one array .json",
        "a.jsonl:3: not a JSON object or a list of messages",
        "a.jsonl:5: not UTF-8 at byte 11 of the line (0xff): save the file as UTF-8",
    ]


def test_a_json_file_that_is_not_json_names_its_line(data: Path) -> None:
    (data / "a.json").write_text('[\n{"text": "x"},\n oops]')
    bad = BadRows()
    assert read(data, "a.json", bad) == []
    assert bad.shown() == "a.json:3: not JSON: Expecting value at column 2"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"text": "x"', "not JSON: Expecting ',' delimiter at column 13, where the line ends"),
        (b"[" * 5000, "nests lists or objects more than 100 levels deep"),
        (b'"\xff"', "not UTF-8 at byte 2 of the line"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_line_of_json_lines_in_a_json_file_is_one_bad_row(
    data: Path, broken: bytes, reason: str, place: int
) -> None:
    lines = JSONL.splitlines()
    lines.insert(place, broken)
    (data / "a.json").write_bytes(b"\n".join(lines))
    bad = BadRows()
    assert [record.columns for record in read(data, "a.json", bad)] == ROWS
    assert bad.shown().startswith(f"a.json:{place + 1}: {reason}")


def test_a_list_of_rows_with_an_error_is_not_json_lines(data: Path) -> None:
    rows = ",\n".join(json.dumps(row) for row in [*ROWS, *ROWS])
    (data / "a.json").write_text(f"[\n{rows} oops\n]")
    bad = BadRows()
    assert read(data, "a.json", bad) == []
    assert bad.count == 1


@pytest.mark.parametrize(
    ("files", "uri", "code", "words"),
    [
        ({}, "none.jsonl", ExitCode.DatasetNotFound, "no dataset at s3://bucket/none.jsonl"),
        ({"a.txt": b"x"}, "a.txt", ExitCode.DatasetInvalid, "not a file of a supported type"),
        ({"set/a.txt": b"x"}, "set", ExitCode.DatasetInvalid, "no file of a supported type (found a.txt)"),
        ({"a.jsonl.gz": b"not gzip"}, "a.jsonl.gz", ExitCode.DatasetInvalid, "a.jsonl.gz cannot be read"),
        ({"a.jsonl.gz": gzip.compress(JSONL, mtime=0)[:-9]}, "a.jsonl.gz", ExitCode.DatasetInvalid, "cannot be read"),
        ({"a.jsonl.zst": b"not zstd"}, "a.jsonl.zst", ExitCode.DatasetInvalid, "cannot be read"),
        ({"a.jsonl.bz2": b"not bzip2"}, "a.jsonl.bz2", ExitCode.DatasetInvalid, "cannot be read"),
        ({"a.jsonl.xz": b"not xz"}, "a.jsonl.xz", ExitCode.DatasetInvalid, "cannot be read"),
        ({"a.jsonl.lz4": b"not lz4"}, "a.jsonl.lz4", ExitCode.DatasetInvalid, "cannot be read"),
        ({"a.zip": b"not zip"}, "a.zip", ExitCode.DatasetInvalid, "a.zip cannot be read"),
        (
            {"a.zip": zipped(README__md=b"x")},
            "a.zip",
            ExitCode.DatasetInvalid,
            "archive a.zip has no file of a supported",
        ),
        ({"a.parquet.gz": b"x"}, "a.parquet.gz", ExitCode.DatasetInvalid, "not a file of a supported type"),
        ({"set/a.jsonl": JSONL}, "set/b*.jsonl", ExitCode.DatasetNotFound, "no dataset at s3://bucket/set/b*.jsonl"),
        ({"a.parquet": b"PAR1 torn"}, "a.parquet", ExitCode.DatasetInvalid, "a.parquet cannot be read"),
        ({"a.csv": b"t\xffxt\nx\n"}, "a.csv", ExitCode.DatasetInvalid, "a.csv:1: the header is not UTF-8"),
        ({"a.csv": b'"text\nx\n'}, "a.csv", ExitCode.DatasetInvalid, "a.csv:1: the header is not CSV"),
        ({"a.jsonl": JSONL.decode().encode("utf-16")}, "a.jsonl", ExitCode.DatasetInvalid, "a.jsonl is UTF-16"),
        ({"a.json": b"\0\0\xfe\xff"}, "a.json", ExitCode.DatasetInvalid, "a.json is UTF-16 or UTF-32"),
        ({"a.arrow": b"\xff\xff\xff\xff torn"}, "a.arrow", ExitCode.DatasetInvalid, "a.arrow cannot be read"),
    ],
    ids=id_of,
)
def test_what_cannot_be_read_at_all(data: Path, files: dict[str, bytes], uri: str, code: ExitCode, words: str) -> None:
    for name, contents in files.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(contents)
    with pytest.raises(TrainerError) as caught:
        read(data, uri)
    assert caught.value.code is code
    assert words in caught.value.message
    assert caught.value.remedy


def test_an_empty_file_has_no_rows(data: Path) -> None:
    (data / "a.jsonl").write_bytes(b"")
    assert read(data, "a.jsonl") == []


def test_joined_files_may_have_a_mark_in_the_middle(data: Path) -> None:
    (data / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')
    assert rows(data, "a.jsonl") == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_of_a_table(data: Path, separator: str) -> None:
    lines = [("prompt", "completion"), ('"Wo, bitte?"', '"Im Süden, Nr. 0."')]
    (data / "a.csv").write_text("\n".join(map(separator.join, lines)))
    assert rows(data, "a.csv") == [{"prompt": "Wo, bitte?", "completion": "Im Süden, Nr. 0."}]


@pytest.mark.parametrize(
    ("lines", "whole", "bad_lines"),
    [
        (["q0,a0", 'q1,"he said "no" to it"', "q2,a2"], ["q0", "q2"], [3]),
        (["q0,a0", 'q1,"never closed', "q2,a2", 'q3,"a3"', "q4,a4"], ["q0", "q2", "q3", "q4"], [3]),
        (['q0,"never closed', "q1,a1", "q2,a2"], ["q1", "q2"], [2]),
        (['q0,"two', 'lines"', "q1", "q2,a2"], ["q0", "q2"], [4]),
    ],
)
def test_a_line_of_a_table_spoils_its_own_row_only(
    data: Path, lines: list[str], whole: list[str], bad_lines: list[int]
) -> None:
    (data / "a.csv").write_text("\n".join(["prompt,completion", *lines]))
    bad = BadRows()
    assert [record.columns["prompt"] for record in read(data, "a.csv", bad)] == whole
    assert [row.where for row in bad.first] == [f"a.csv:{line}" for line in bad_lines]


def test_a_table_in_another_encoding_is_told_by_line(data: Path) -> None:
    (data / "a.csv").write_bytes("prompt,completion\nWo?,Hier.\nWo?,Im Süden.\n".encode("cp1252"))
    bad = BadRows()
    assert len(read(data, "a.csv", bad)) == 1
    assert bad.shown() == "a.csv:3: not UTF-8 (byte 0xfc): save the file as UTF-8"


def saved_to_disk(folder: Path, rows: list[dict]) -> None:
    """The rows as datasets' save_to_disk writes them."""
    folder.mkdir()
    table = pa.Table.from_pylist(rows)
    for name in ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    for name in ("dataset_info.json", "state.json"):
        (folder / name).write_text('{"features": {}}')


def test_a_folder_of_save_to_disk(data: Path) -> None:
    saved_to_disk(data / "set", ROWS)
    assert rows(data, "set") == ROWS


def test_a_description_beside_the_rows_is_no_row(data: Path) -> None:
    (data / "set").mkdir()
    (data / "set/train.jsonl").write_bytes(JSONL)
    (data / "set/dataset_info.json").write_text('{"train": {"file_name": "train.jsonl"}}')
    assert rows(data, "set") == ROWS


def test_keys_that_arrow_adds_to_objects_are_left_out(data: Path) -> None:
    chats = [
        {"tools": [{"name": "weather", "arguments": {"city": "Rome"}}], "score": 1.5},
        {"tools": [{"name": "price", "arguments": {"symbol": "A", "days": [1, None]}}], "score": None},
    ]
    pq.write_table(pa.Table.from_pylist(chats), data / "a.parquet")
    assert rows(data, "a.parquet") == chats
    table = pa.table({"score": [float("nan")], "text": ["a"]})
    pq.write_table(table, data / "b.parquet")
    assert rows(data, "b.parquet") == [{"score": None, "text": "a"}]


def test_a_null_of_json_is_kept(data: Path) -> None:
    (data / "a.jsonl").write_text('{"tools": [{"arguments": {"city": null}}]}')
    assert rows(data, "a.jsonl") == [{"tools": [{"arguments": {"city": None}}]}]


def test_a_value_of_arrow_that_python_cannot_hold_spoils_its_own_row_only(data: Path) -> None:
    texts = pa.array([b"a", b"\xfc", b"c"]).cast(pa.binary())
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 3, texts.buffers()), "n": [1, 2, 3]})
    pq.write_table(table, data / "a.parquet")
    bad = BadRows()
    assert [record.columns["n"] for record in read(data, "a.parquet", bad)] == [1, 3]
    assert bad.shown().startswith("a.parquet: row 2: the column text cannot be read ('utf-8' codec")
