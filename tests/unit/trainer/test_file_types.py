"""The same rows in files of every type and layout: they train the same tokens, which have one digest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.spec.dataset import Overlength, SourceSpec
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.encoders import row_encoder
from lora_trainer.data.places import DataFile, Place
from lora_trainer.data.report import BadRows
from lora_trainer.data.rows import Limits, OpenSource, RowSet, peek_format, tokenise
from lora_trainer.data.sources import read_records
from lora_trainer.data.tokens import RowTokenizer

from tests.properties.rows import tried_on
from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer

Rows = list[dict[str, Any]]
TOOLS = "{{ tools | tojson }}" + CHATML.replace(
    "{{ message.content }}",
    "{% for call in message.tool_calls or () %}{{ call.function | tojson }}{% endfor %}{{ message.content }}",
)
TOKENIZER = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=TOOLS)
RUNS = {
    Method.SFT: run_file(),
    Method.DPO: run_file(training={"method": "DPO"}),
    Method.GRPO: run_file(training={"method": "GRPO", "grpo": {"rewards": [{"length": {"target": 9}}]}}),
}


def to_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def to_csv(rows: Rows) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def table_of(rows: Rows) -> pa.Table:
    """The rows with null where a row lacks the column of another."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def to_parquet(rows: Rows) -> bytes:
    pq.write_table(table_of(rows), sink := pa.BufferOutputStream())
    return sink.getvalue().to_pybytes()


def to_arrow(rows: Rows) -> bytes:
    table, sink = table_of(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def to_columns(rows: Rows) -> bytes:
    """As pandas.DataFrame.to_json writes them."""
    return json.dumps({name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]}).encode()


NESTED: Mapping[str, Callable[[Rows], bytes]] = {
    "a.jsonl": to_jsonl,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "b.json": lambda rows: json.dumps({"data": rows}, indent=1).encode(),
    "a.parquet": to_parquet,
    "a.arrow": to_arrow,
}
FLAT = {**NESTED, "a.csv": to_csv, "c.json": to_columns}


def tokenised(files: Mapping[str, bytes], method: Method = Method.SFT) -> RowSet:
    """The rows of a folder of files."""
    run, spec, bad = RUNS[method], SourceSpec(uri="s3://bucket/set"), BadRows()
    place = Place(files=[DataFile(name=name, fetch=writing(files[name])) for name in sorted(files)], single=False)
    with TemporaryDirectory() as folder:
        records = read_records(place, uri="s3://bucket/set", scratch=Path(folder), bad=bad)
        row_format, records = peek_format(records, spec, method)
        return tokenise(
            [OpenSource(spec=spec, row_format=row_format, records=records)],
            Path(folder) / "rows.parquet",
            encoder=lambda _: row_encoder(run, row_format, None, tokenizer=TOKENIZER),
            limits=Limits(max_length=100_000, overlength=Overlength.DROP),
            bad=bad,
        )


def writing(contents: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(contents)

    return write


def digests(name: str, contents: bytes, method: Method = Method.SFT) -> list[bytes]:
    rows = tokenised({name: contents}, method)
    assert not rows.bad.count, rows.bad.shown()
    return rows.digests


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
ARGUMENTS = {"city": "Rome", "days": "3", "symbol": "A"}
arguments = st.sets(st.sampled_from(sorted(ARGUMENTS))).map(
    lambda names: {name: ARGUMENTS[name] for name in sorted(names)}
)
calls = st.lists(arguments.map(lambda given: {"function": {"arguments": given, "name": "f"}}), max_size=2)
tools = st.lists(arguments.map(lambda given: {"name": "f", "parameters": given}), max_size=2)


def chats(contents: st.SearchStrategy[Any]) -> st.SearchStrategy[Rows]:
    """Rows whose contents are all of one type. The first has every key, which fixes their order in Arrow."""
    question = st.fixed_dictionaries({"role": st.just("user"), "content": contents}, optional={"name": texts})
    answer = st.fixed_dictionaries({"role": st.just("assistant"), "content": contents}, optional={"tool_calls": calls})
    row = st.fixed_dictionaries(
        {"messages": st.tuples(question, answer).map(list)}, optional={"tools": tools, "system": texts}
    )
    return st.lists(row, min_size=1, max_size=3).map(lambda rows: [with_every_key(rows[0]), *rows])


def with_every_key(row: dict[str, Any]) -> dict[str, Any]:
    question, answer = row["messages"]
    call = {"function": {"arguments": ARGUMENTS, "name": "f"}}
    messages = [{**question, "name": "n"}, {**answer, "tool_calls": [call]}]
    return {"messages": messages, "tools": [{"name": "f", "parameters": ARGUMENTS}], "system": "s"}


parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.none() | texts}), min_size=1, max_size=3)
pairs = st.fixed_dictionaries({"prompt": texts, "chosen": texts, "rejected": texts, "completion": texts})


@tried_on(200, tests=2)
@given(chats(texts) | chats(parts), st.sampled_from(sorted(NESTED)))
def test_chats_have_one_digest_in_every_type(rows: Rows, name: str) -> None:
    assert digests(name, NESTED[name](rows)) == digests("a.jsonl", to_jsonl(rows))


@tried_on(200, tests=2)
@given(st.lists(pairs, min_size=1, max_size=3), st.sampled_from(sorted(FLAT)), st.sampled_from(Method))
def test_texts_have_one_digest_in_every_type(rows: Rows, name: str, method: Method) -> None:
    assert digests(name, FLAT[name](rows), method) == digests("a.jsonl", to_jsonl(rows), method)


QUESTION, ANSWER = {"role": "user", "content": "Who keeps the keys?"}, {"role": "assistant", "content": "The porter."}
CHAT = [QUESTION, ANSWER]
SHAREGPT = [{"from": "human", "value": QUESTION["content"]}, {"from": "gpt", "value": ANSWER["content"]}]


@pytest.mark.parametrize(
    "files",
    [
        {"a.json": json.dumps([CHAT, CHAT])},
        {"a.json": json.dumps([SHAREGPT, SHAREGPT], indent=1)},
        {"a.jsonl": f"{json.dumps(CHAT)}\n{json.dumps(CHAT)}\n"},
        {"c0.json": json.dumps({"messages": CHAT}), "c1.json": json.dumps({"messages": CHAT})},
        {"c0.json": json.dumps({"conversations": SHAREGPT}), "c1.json": json.dumps(SHAREGPT)},
        {"a.jsonl": to_jsonl([{"messages": CHAT}] * 2).decode(), "dataset_info.json": "{}", "state.json": "{}"},
    ],
)
def test_layouts_of_two_conversations(files: dict[str, str]) -> None:
    """Each is one conversation to a row, however they lie."""
    rows = tokenised({name: contents.encode() for name, contents in files.items()})
    assert not rows.bad.count, rows.bad.shown()
    assert rows.digests == digests("a.jsonl", to_jsonl([{"messages": CHAT}] * 2))


CALLS: Rows = [
    {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
        ],
        "tools": [{"type": "function", "function": {"name": name, "parameters": {"properties": {**arguments}}}}],
    }
    for name, arguments in (("get_weather", {"city": "Rome"}), ("get_price", {"symbol": "A", "days": 3}))
]


def test_the_arguments_of_one_call_are_not_filled_up_with_those_of_another() -> None:
    """Arrow has null for the keys of other rows."""
    assert digests("a.parquet", to_parquet(CALLS)) == digests("a.jsonl", to_jsonl(CALLS))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_that_only_some_prompts_have(name: str) -> None:
    rows: Rows = [{"prompt": "6 * 7", "answer": "42"}, {"prompt": "Tell a joke.", "style": ["short"]}]
    assert digests(name, NESTED[name](rows), Method.GRPO) == digests("a.jsonl", to_jsonl(rows), Method.GRPO)


def test_a_part_without_text_writes_nothing() -> None:
    question = {**QUESTION, "content": [{"type": "text", "text": QUESTION["content"]}]}
    answer = {**ANSWER, "content": [{"type": "text", "text": "The porter."}, {"type": "text", "text": None}]}
    rows = [{"messages": [question, answer]}]
    for name, contents in {"a.parquet": to_parquet(rows), "a.jsonl": to_jsonl(rows)}.items():
        assert digests(name, contents) == digests("a.jsonl", to_jsonl([{"messages": CHAT}]))
