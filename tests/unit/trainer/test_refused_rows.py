"""Rows that are refused are counted and listed, and leave no other trace: the others are trained as without them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.outcome import BAD_ROW, DatasetFigures
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.summary import DataReport, data_report, dataset_figures
from lora_trainer.prepare import read_data
from lora_trainer.storage import Bucket
from obstore.store import LocalStore

from tests.properties.rows import tried_on
from tests.support.runs import run_file
from tests.support.tiny_model import write_tiny_model

Row = dict[str, Any]
Damage = Callable[[Row], Any]
MORE: Mapping[Method, Row] = {
    Method.SFT: {},
    Method.DPO: {},
    Method.GRPO: {"grpo": {"rewards": [{"length": {"target": 9}}], "maxPromptLength": 512}},
}


@dataclass(frozen=True, kw_only=True)
class Used:
    """What prepare makes of a file."""

    rows: list[Row]
    """Tokens and masks."""
    drawn: tuple[Sequence[int], Sequence[bool]]
    """How often each is trained on, and which are evaluated on."""
    report: DataReport
    figures: DatasetFigures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def used(name: str, contents: bytes, method: Method, model: Path) -> Used:
    run = run_file(
        training={"method": method, **MORE[method]},
        dataset={"uri": f"s3://team-a/{name}", "maxBadFraction": 1},
        evaluation={"maxRows": 2, "holdoutFraction": 0.5},
    )
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / name).write_bytes(contents)
        bucket = Bucket(open_store=lambda _: LocalStore(root))
        data = read_data(run, bucket=bucket, model_folder=model, work=root / "work")
        report = data_report(data)
        return Used(
            rows=pq.read_table(data.split.train.path).to_pylist(),
            drawn=(data.split.trained_on, data.split.evaluated_on),
            report=report,
            figures=dataset_figures(report, data.split, uri="s3://team-a/report.json", samples=3),
        )


def but_for(bad: int, made: Used) -> Used:
    """What was made, without the rows that are counted as bad and listed."""
    assert sum(each.rows for each in made.report.train.dropped if each.reason == BAD_ROW) == bad
    assert len(made.report.train.bad_rows) == bad
    dropped = tuple(each for each in made.report.train.dropped if each.reason != BAD_ROW)
    train = made.report.train.model_copy(
        update={"rows": made.report.train.rows - bad, "dropped": dropped, "bad_rows": ()}
    )
    return Used(
        rows=made.rows,
        drawn=made.drawn,
        report=made.report.model_copy(update={"train": train}),
        figures=made.figures.model_copy(update={"rows": made.figures.rows - bad, "dropped": dropped}),
    )


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), max_size=8)
DEEP: Any = []
for _ in range(100):
    DEEP = [DEEP]


def turns(role: str, content: str, asker: str, answerer: str) -> st.SearchStrategy[list[Row]]:
    """One or two exchanges, in the words of one of the two ways to write a chat."""
    exchange = st.tuples(TEXTS, TEXTS).map(
        lambda said: [{role: asker, content: said[0]}, {role: answerer, content: said[1]}]
    )
    return st.lists(exchange, min_size=1, max_size=2).map(lambda exchanges: list(chain.from_iterable(exchanges)))


def last_message(column: str, **changes: Any) -> Damage:
    return lambda row: {**row, column: [*row[column][:-1], {**row[column][-1], **changes}]}


def with_column(name: str, value: Any) -> Damage:
    return lambda row: {**row, name: value}


def without_column(name: str) -> Damage:
    return lambda row: {column: value for column, value in row.items() if column != name}


CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rows of one format, and what makes one of them unusable."""

    rows: st.SearchStrategy[Row]
    needed: tuple[str, ...]
    """Columns of which each must be there and hold what it should."""
    method: Method = Method.SFT
    wild: tuple[Damage, ...] = ()
    typed: tuple[Damage, ...] = ()
    """What leaves every value of its type."""

    def damages(self) -> tuple[Damage, ...]:
        columns = [damage(name) for name in self.needed for damage in (without_column, missing, wrong)]
        return (*columns, *self.wild, *self.typed, *UNWRITABLE)

    def typed_damages(self) -> tuple[Damage, ...]:
        return (*map(missing, self.needed), *self.typed)


def missing(name: str) -> Damage:
    return with_column(name, None)


def wrong(name: str) -> Damage:
    return with_column(name, 5)


UNWRITABLE = tuple(with_column("x", value) for value in (float("nan"), "a\ud83d", DEEP))
SHAPES: Mapping[str, Shape] = {
    "messages": Shape(
        rows=st.fixed_dictionaries(
            {"messages": turns("role", "content", "user", "assistant")}, optional={"system": TEXTS, "id": TEXTS}
        ),
        needed=("messages",),
        wild=(
            with_column("messages", []),
            with_column("messages", [5]),
            with_column("functions", [TOOL]),
            with_column("tools", [TOOL]),
            with_column("tools", 5),
            last_message("messages", content=5),
            last_message("messages", role=None),
            last_message("messages", weight=2),
            last_message("messages", tool_calls=[CALL]),
            last_message("messages", tool_calls=[5]),
        ),
        typed=(
            lambda row: {**row, "messages": row["messages"][:1]},
            last_message("messages", role="oops"),
            last_message("messages", content="a<|im_end|>"),
            with_column("tools", "["),
        ),
    ),
    "conversations": Shape(
        rows=st.fixed_dictionaries({"conversations": turns("from", "value", "human", "gpt")}),
        needed=("conversations",),
        wild=(last_message("conversations", value=5), last_message("conversations", **{"from": "function_call"})),
        typed=(last_message("conversations", **{"from": "oops"}), with_column("history", [["q", "a"]])),
    ),
    "alpaca": Shape(
        rows=st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}, optional={"input": TEXTS}),
        needed=("instruction", "output"),
        wild=(with_column("input", 5), with_column("history", "q"), with_column("history", [["q"]])),
        typed=(with_column("output", "a<|im_start|>"),),
    ),
    "prompt and completion": Shape(
        rows=st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}, optional={"id": TEXTS}),
        needed=("prompt", "completion"),
        wild=(with_column("system", 5), with_column("tools", [TOOL])),
        typed=(with_column("prompt", "<|im_start|>"),),
    ),
    "text": Shape(rows=st.fixed_dictionaries({"text": TEXTS}), needed=("text",)),
    "pairs": Shape(
        rows=st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS}),
        needed=("chosen", "rejected"),
        method=Method.DPO,
        wild=(with_column("prompt", 5), with_column("rejected", [{"role": "oops", "content": "a"}])),
        typed=(with_column("rejected", "b<|im_end|>"),),
    ),
    "prompts": Shape(
        rows=st.fixed_dictionaries({"prompt": TEXTS}, optional={"answer": TEXTS}),
        needed=("prompt",),
        method=Method.GRPO,
        typed=(with_column("prompt", "<|im_end|>"),),
    ),
}
UNUSABLE_VALUES = (
    {}, {"oops": 1}, {"messages": 5}, {"conversations": 5}, {"instruction": 1, "output": 2}, {"text": 5},
    {"prompt": 5, "completion": 5}, {"prompt": 5, "chosen": None, "rejected": 5}, 5, "oops", None, [], [5], [[5]],
)  # fmt: skip
"""Values that are rows of no format."""
BROKEN = (b"oops", b"{", b"[", b'{"text": "a"', b'{"text": "a"},', b'"\xff"', b"\xff", b"[" * 5000 + b"]" * 5000)
"""Lines that are no values."""
BROKEN_CSV = (b"a\n", b"a,b,c\n", b'a,"b"c\n', b"a,\xff\n", b'"a\n')
"""Lines that are no rows of two columns."""
HEADER = ("prompt", "completion")


def numbered(rows: Sequence[Row]) -> list[Row]:
    """The rows with texts of which no two are the same."""

    def number(value: Any, place: str) -> Any:
        if isinstance(value, str):
            return f"{place} {value}"
        *_, content = value[0]
        return [{**message, content: f"{place}.{index} {message[content]}"} for index, message in enumerate(value)]

    return [{name: number(row[name], f"{name} {index}") for name in row} for index, row in enumerate(rows)]


def line(row: Any) -> bytes:
    return json.dumps(row).encode()


def csv_line(row: Row) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerow([row[name] for name in HEADER])
    return text.getvalue().encode()


def csv_lines(rows: Sequence[bytes]) -> bytes:
    return ",".join(HEADER).encode() + b"\n" + b"".join(rows)


def table(rows: Sequence[Row]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def parquet(rows: Sequence[Row]) -> bytes:
    pq.write_table(table(rows), sink := pa.BufferOutputStream())
    return sink.getvalue().to_pybytes()


def arrow(rows: Sequence[Row]) -> bytes:
    made, sink = table(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True, kw_only=True)
class FileType:
    """How rows are written into a file, and what may stand in it beside them."""

    write: Callable[[Sequence[Any]], bytes]
    row: Callable[[Any], Any] = lambda row: row
    """A row as it is written."""
    others: Sequence[Any] = ()
    """What stands for a row and is none."""
    damages: Callable[[Shape], Sequence[Damage]] = Shape.damages
    """What may make a row of it unusable."""
    shapes: Sequence[str] = tuple(sorted(SHAPES))


JSON_LINES = FileType(write=b"\n".join, row=line, others=(*map(line, UNUSABLE_VALUES), *BROKEN))
CSV = FileType(
    write=csv_lines, row=csv_line, others=BROKEN_CSV, damages=lambda _: (), shapes=("prompt and completion",)
)
FILES: Mapping[str, FileType] = {
    "rows.jsonl": JSON_LINES,
    "lines.json": JSON_LINES,
    "rows.json": FileType(write=lambda rows: json.dumps(rows).encode(), others=UNUSABLE_VALUES),
    "data.json": FileType(write=lambda rows: json.dumps({"data": rows}).encode(), others=UNUSABLE_VALUES),
    "rows.csv": CSV,
    "rows.parquet": FileType(write=parquet, damages=Shape.typed_damages),
    "rows.arrow": FileType(write=arrow, damages=Shape.typed_damages),
}


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A file with refused rows among others, and the same file without them."""

    name: str
    method: Method
    mixed: bytes
    clean: bytes
    refused: int


@st.composite
def files(draw: st.DrawFn) -> Mixed:
    """Rows of one shape with fewer others between them, in a file of any type."""
    name = draw(st.sampled_from(sorted(FILES)))
    file = FILES[name]
    shape = SHAPES[draw(st.sampled_from(file.shapes))]
    good = numbered(draw(st.lists(shape.rows, min_size=3, max_size=6)))
    rows = [file.row(row) for row in good]
    damaged = (
        st.builds(lambda row, damage=damage: file.row(damage(row)), st.sampled_from(good))
        for damage in file.damages(shape)
    )
    others = st.one_of(*damaged, *map(st.just, file.others))
    refused = draw(st.lists(st.tuples(st.integers(0, len(rows)), others), min_size=1, max_size=len(rows) - 1))
    mixed = [*rows]
    for place, other in refused:
        mixed.insert(place, other)
    return Mixed(name=name, method=shape.method, mixed=file.write(mixed), clean=file.write(rows), refused=len(refused))


@tried_on(200)
@given(files())
def test_a_refused_row_changes_nothing_of_the_others(model: Path, file: Mixed) -> None:
    with_them = used(file.name, file.mixed, file.method, model)
    assert but_for(file.refused, with_them) == used(file.name, file.clean, file.method, model)
