"""Whatever bytes a data file has and whatever values its rows hold: rows, bad rows, or a refusal of the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import RowEncoder, row_encoder
from lora_trainer.data.formats import detect_format
from lora_trainer.data.places import DataFile, Place
from lora_trainer.data.report import BadRows
from lora_trainer.data.sources import Record, read_records
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError

from tests.properties.rows import tried_on
from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer

TOOLS = "{{ tools | tojson }}" + CHATML.replace("{{ message.content }}", "{{ message | tojson }}{{ message.content }}")
TOKENIZER = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=TOOLS)
HUGE = "9" * 5000
NESTED = "[" * 5000 + "]" * 5000
HALF = "\ud83d"

QUESTION, ANSWER = {"role": "user", "content": "Grüße, \N{KEY}?"}, {"role": "assistant", "content": "The porter."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": '{"city": "Oslo"}'}]}
CHATS: list[dict[str, Any]] = [{"messages": [QUESTION, ANSWER]}, {"messages": [QUESTION, CALL], "tools": "[]"}]
TEXTS: list[dict[str, Any]] = [
    {"prompt": f'Who "{number}"?\n', "chosen": "a", "rejected": "b", "completion": "c"} for number in range(3)
]


def written(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """The rows as a file of one type."""
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False).encode()
    if kind == "csv":
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        return text.getvalue().encode()
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return sink.getvalue().to_pybytes()


def read(name: str, contents: bytes, bad: BadRows) -> list[Record]:
    def fetch(path: Path) -> None:
        path.write_bytes(contents)

    place = Place(files=[DataFile(name=name, fetch=fetch)], single=True)
    with TemporaryDirectory() as folder:
        return list(read_records(place, uri=f"s3://bucket/{name}", scratch=Path(folder), bad=bad))


def encoder(method: Method, row_format: RowFormat) -> RowEncoder:
    more = {"grpo": {"rewards": [{"length": {"target": 9}}]}} if method is Method.GRPO else {}
    return row_encoder(run_file(training={"method": method, **more}), row_format, None, tokenizer=TOKENIZER)


def refused(error: TrainerError) -> None:
    """Compare with a refusal of the data that can be written to status."""
    assert error.code is ExitCode.DatasetInvalid
    assert error.remedy
    assert error.message.encode()


def use(records: list[Record], bad: BadRows) -> int:
    """Make rows of every method as prepare does; the number of rows that are whole."""
    made = 0
    for method in Method:
        for record in records:
            try:
                row_encoding = encoder(method, detect_format([record.columns], None, method))
                drafts = row_encoding.draft(record.columns)
            except RowError as error:
                bad.add(record.where, str(error))
                continue
            except TrainerError as error:
                refused(error)
                continue
            for row in row_encoding.encode(drafts):
                schema = row_encoding.schemas.held_out
                columns = {name: [getattr(row, name)] for name in schema.names}
                pa.RecordBatch.from_pydict(columns, schema=schema)
                assert row.contents()
                made += 1
    return made


def outcome(name: str, contents: bytes) -> tuple[int, BadRows]:
    """Read a file and use its rows; anything but rows, bad rows and a refusal is raised."""
    bad = BadRows()
    try:
        records = read(name, contents, bad)
    except TrainerError as error:
        refused(error)
        return 0, bad
    made = use(records, bad)
    for row in bad.first:
        assert row.where.startswith(name)
        assert str(row).encode(), "a reason is written to status and report"
    return made, bad


KINDS = ("jsonl", "json", "csv", "parquet", "arrow")
SNIPPETS = [
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00", b"\xfc", b"\xed\xa0\x80", b"\\ud83d", b"\\u0000", b"NaN",
    b"-Infinity", b"1e999", HUGE.encode(), NESTED.encode(), b"[", b"{", b'"', b'""', b"\r", b"\n", b"\r\n", b";", b"\t",
    b",", b"null", b'{"', b"\\",
]  # fmt: skip


@st.composite
def broken_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of one type, cut, overwritten and filled up in a few places; or bytes of no type at all."""
    kind = draw(st.sampled_from(KINDS))
    if draw(st.integers(0, 9)) == 0:
        return kind, draw(st.binary(max_size=200))
    contents = written(kind, TEXTS if kind == "csv" else draw(st.sampled_from([CHATS, TEXTS])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(contents)))
        end = min(len(contents), start + draw(st.sampled_from([0, 1, 1, 5, 10_000])))
        put = draw(st.sampled_from(SNIPPETS) | st.binary(min_size=1, max_size=2))
        contents = contents[:start] + put + contents[end:]
    return kind, contents


@tried_on(500, tests=2)
@given(broken_files())
def test_no_bytes_are_a_bug_of_the_trainer(file: tuple[str, bytes]) -> None:
    kind, contents = file
    outcome(f"a.{kind}", contents)


texts = st.text(st.characters(exclude_categories=()), max_size=8)
names = texts | st.sampled_from(["name", "text"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([HALF, HUGE, NESTED, "[]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
OTHERS = {"prompt": "q", "chosen": "a", "rejected": "b"}
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "a column": lambda value: {"text": "a", **OTHERS, "x": value},
    "its name": lambda value: {"text": "a", **OTHERS, str(value): 1},
    "messages": lambda value: {"messages": value, "prompt": value, "chosen": value, "rejected": value},
    "text": lambda value: {**OTHERS, "text": value, "prompt": value},
    "answers": lambda value: {**OTHERS, "instruction": "i", "output": value, "chosen": value},
    "a message": lambda value: {"messages": [QUESTION, value, ANSWER], "prompt": [value]},
    "a content": lambda value: chat({**QUESTION, "content": value}),
    "a part": lambda value: chat({**QUESTION, "content": [{"type": "text", "text": value}]}),
    "a role": lambda value: chat({**QUESTION, "role": value}),
    "a key": lambda value: chat({**QUESTION, "x": value}),
    "tools": lambda value: chat(QUESTION) | {"tools": value},
    "a tool": lambda value: chat(QUESTION) | {"tools": [{"x": value}]},
    "calls": lambda value: chat({**CALL, "tool_calls": value}),
    "arguments": lambda value: chat({**CALL, "tool_calls": [{"name": "f", "arguments": value}]}),
}


def chat(message: dict[str, Any]) -> dict[str, Any]:
    """A row for every method with this message in it."""
    return {"messages": [message, ANSWER], "prompt": [message], "chosen": [ANSWER], "rejected": [CALL]}


@tried_on(500, tests=2)
@given(st.sampled_from(sorted(PLACES)), values)
@example("a content", HALF)
@example("a column", float("nan"))
@example("arguments", json.dumps({"a": HALF}))
@example("arguments", f'{{"a": {HUGE}}}')
@example("arguments", NESTED)
def test_no_value_of_a_row_is_a_bug_of_the_trainer(place: str, value: Any) -> None:
    outcome("a.jsonl", json.dumps(PLACES[place](value)).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_used(kind: str) -> None:
    made, bad = outcome(f"a.{kind}", written(kind, TEXTS))
    assert (made, bad.count) == (9, 0), "every row with every method"


NO_NUMBER = "is NaN, infinite, or a number of more than 4300 digits, none of which JSON can hold"


def reason(*lines: str) -> str:
    """What is wrong with a JSON lines file."""
    bad = BadRows()
    read("a.jsonl", "\n".join(lines).encode(), bad)
    return bad.shown()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            r'{"messages": [{"role": "user", "content": "Shorten: so nice \ud83d"}]}',
            r"messages[0].content has half of a surrogate pair (\ud83d) at character 18",
        ),
        (
            r'{"prompt": "q", "answer": "a \ud83d"}',
            r"the column answer has half of a surrogate pair (\ud83d) at character 3",
        ),
        (r'{"chosen": "\udc00"}', r"the column chosen has half of a surrogate pair (\udc00) at character 1"),
        (r'{"a\ud83d": 1}', r"the column a\ud83d has half of a surrogate pair (\ud83d) at character 2"),
        (f'{{"text": "a", "id": {HUGE}}}', f"the column id {NO_NUMBER}"),
        ('{"tools": [{"x": NaN}]}', f"tools[0].x {NO_NUMBER}"),
        ('{"x": 1e999}', f"the column x {NO_NUMBER}"),
        (f'{{"x": {NESTED}}}', "nests lists or objects more than 100 levels deep"),
        (f'{{"x": {"[" * 100}{"]" * 100}}}', f"x{'[0]' * 99} nests lists or objects more than 100 levels deep"),
    ],
)
def test_a_value_that_nothing_can_write_is_a_bad_row(row: str, said: str) -> None:
    assert reason('{"text": "whole"}', row) == f"a.jsonl:2: {said}"


def test_a_pair_and_a_character_of_no_meaning_are_text() -> None:
    records = read("a.jsonl", rb'{"text": "\ud83d\ude00 \u0000 \ue000"}', bad := BadRows())
    assert [record.columns["text"] for record in records] == ["\N{GRINNING FACE} \x00 \ue000"]
    assert bad.count == 0
