"""What of a row is used: whatever changes nothing of what is trained is listed, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.outcome import Unused
from lora_trainer.contract.spec.training import Method, TrainOn
from lora_trainer.data import unused
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import answers_encoder
from lora_trainer.data.formats import detect_format
from lora_trainer.data.preferences import draft_pair, normalise_pair
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.data.unused import MAX_PLACES, TRIALS, UnusedValues, merged, named_values

from tests.properties.rows import tried_on
from tests.support.tiny_model import CHATML, tiny_tokenizer

TOKENIZER = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=CHATML)
Draft = Callable[[Mapping[str, Any]], Any]


def sft(record: Mapping[str, Any]) -> Any:
    row_format = detect_format([record], None, Method.SFT)
    return answers_encoder(TOKENIZER, row_format, None, train_on=TrainOn.ANSWERS).draft(record)


def dpo(record: Mapping[str, Any]) -> Any:
    return draft_pair(normalise_pair(record, None), TOKENIZER)


def unused_in(*records: Mapping[str, Any], draft: Draft = sft) -> dict[str, int]:
    seen = UnusedValues(draft)
    for record in records:
        seen.look_at(record, draft(record))
    return {each.name: each.rows for each in seen.found()}


def chat(*answers: dict[str, Any], **keys: Any) -> dict[str, Any]:
    turns = [
        [{"role": "user", "content": "q", **keys}, {"role": "assistant", "content": "a", **more}] for more in answers
    ]
    return {"messages": [message for turn in turns for message in turn]}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (chat({}), []),
        ({"prompt": "q", "completion": "a", "source": "web", "scores": {"a": 1, "b": [2]}}, ["scores", "source"]),
        (chat({}, name="Ann", meta={"id": 1}), ["messages[user].meta", "messages[user].name"]),
        (chat({"weight": 0}, {"weight": 1}, weight=1), ["messages[user].weight"]),
        (chat({"train": True}), []),
        ({"instruction": "i", "input": "", "output": "o", "system": "", "history": [["q", "a"]]}, []),
        ({"text": "t", "title": "x", "score": None, "tags": [], "more": {}}, ["title"]),
        ({"text": "t", "": "0"}, ['""']),
        (
            {"messages": [*chat({})["messages"], {"role": "user", "content": "The north hill."}]},
            ["messages[user after the last answer].content"],
        ),
        (
            {"messages": [*chat({})["messages"], *chat({"weight": 0})["messages"]]},
            ["messages[assistant after the last answer].content", "messages[user after the last answer].content"],
        ),
    ],
)
def test_what_changes_nothing_is_listed(record: dict[str, Any], expected: list[str]) -> None:
    assert list(unused_in(record)) == expected


def test_a_prompt_wins_over_messages_beside_it() -> None:
    record = {"prompt": "q", "messages": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"}
    assert unused_in(record, draft=dpo) == {"messages": 1}


def test_rows_are_counted_and_one_with_effect_is_enough() -> None:
    rows = [{"prompt": "q", "completion": "a", "id": number} for number in range(9)]
    assert unused_in(*rows) == {"id": 9}
    assert unused_in(*({**row, "system": "s"} if row["id"] == 8 else row for row in rows)) == {"id": 9}


def test_a_column_is_tried_on_the_first_rows_alone() -> None:
    tried = []

    def draft(record: Mapping[str, Any]) -> Any:
        tried.append(record)
        return record["a"]

    seen = UnusedValues(draft)
    for number in range(100):
        seen.look_at({"a": number, "b": number, "c": {"d": number}}, number)
    assert len(tried) == 1 + 2 * TRIALS
    assert [(each.name, each.rows) for each in seen.found()] == [("b", 100), ("c", 100)]


def test_keys_that_are_data_are_bounded() -> None:
    seen = UnusedValues(dict)
    for number in range(2 * MAX_PLACES):
        record = {"table": {f"key {number}": number}}
        seen.look_at(record, dict(record))
    assert seen.found() == ()
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert unused_in({"text": "t", "deep": deep}) == {"deep": 1}


def test_sources_are_merged_by_name() -> None:
    one, other = (Unused(name="id", rows=2), Unused(name="url", rows=1)), (Unused(name="id", rows=3),)
    assert merged([one, other]) == (Unused(name="id", rows=5), Unused(name="url", rows=1))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=6).filter(str.strip)
SCALARS = TEXTS | st.integers(-3, 3) | st.booleans()
JUNK = st.recursive(
    SCALARS | st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2)
)


@st.composite
def messages(draw: st.DrawFn, *, ending: str = "assistant") -> list[dict[str, Any]]:
    """A chat in one of the two ways to write one, with other keys and marks; the last answer is learned."""
    role_key, content_key, names = draw(
        st.sampled_from(
            [
                ("role", "content", {}),
                ("from", "value", {"user": "human", "assistant": "gpt"}),
            ]
        )
    )
    roles = ["user", "assistant"] * draw(st.integers(1, 3))
    roles = roles if ending == "assistant" else roles[:-1]
    made = []
    for index, role in enumerate(roles):
        others = draw(st.dictionaries(st.sampled_from(["name", "id", "meta"]), JUNK, max_size=2))
        mark = draw(st.sampled_from([{}, {"weight": 1}, {"train": True}, {"weight": 0}, {"train": False}]))
        if index == len(roles) - 1 and any(not value for value in mark.values()):
            mark = {}
        made.append({role_key: names.get(role, role), content_key: draw(TEXTS), **others, **mark})
    return made


def answer() -> st.SearchStrategy[Any]:
    one = TEXTS.map(lambda text: {"role": "assistant", "content": text})
    return one | one.map(lambda message: [message])


SHARED = {"system": TEXTS | st.just(""), "tools": st.just("") | st.just([])}
HISTORY = {"history": st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=2)}
ALPACA = {"instruction": TEXTS, "input": TEXTS | st.just("")}
OTHERS = st.dictionaries(st.sampled_from(["source", "score", "meta", "labels"]), JUNK, max_size=3)
SFT_ROWS = st.one_of(
    st.fixed_dictionaries({"messages": messages()}, optional=SHARED),
    st.fixed_dictionaries({"conversations": messages()}, optional=SHARED),
    st.fixed_dictionaries({**ALPACA, "output": TEXTS}, optional={**SHARED, **HISTORY}),
    st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}, optional={**SHARED, **HISTORY}),
    st.fixed_dictionaries({"prompt": messages(ending="user"), "completion": answer()}, optional=SHARED),
    st.fixed_dictionaries({"text": TEXTS}),
)
ASKED = st.one_of(
    st.fixed_dictionaries({"prompt": TEXTS}, optional=HISTORY),
    st.fixed_dictionaries({**ALPACA}, optional=HISTORY),
    *(st.fixed_dictionaries({name: messages(ending="user")}) for name in ("prompt", "messages", "conversations")),
    st.just({}),
)
DPO_ROWS = st.tuples(
    ASKED,
    st.one_of(
        st.fixed_dictionaries({"chosen": TEXTS, "rejected": TEXTS}),
        st.fixed_dictionaries({"chosen": answer(), "rejected": answer()}),
    ),
    st.fixed_dictionaries({}, optional=SHARED),
).map(lambda parts: parts[0] | parts[1] | parts[2])


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all single values in a row."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))
    elif value is not None:
        yield at


def changed(record: dict[str, Any], at: tuple[Any, ...], data: st.DataObject) -> dict[str, Any]:
    """The row with another value at a place."""
    copy = deepcopy(record)
    holder: Any = copy
    for key in at[:-1]:
        holder = holder[key]
    old = holder[at[-1]]
    if isinstance(old, str):
        holder[at[-1]] = old + data.draw(TEXTS)
    elif isinstance(old, bool):
        holder[at[-1]] = not old
    else:
        holder[at[-1]] = data.draw(st.sampled_from([0, 1]).filter(lambda new: new != old))
    return copy


def is_listed(record: Any, at: tuple[Any, ...], names: dict[str, int]) -> bool:
    """Whether a place or what holds it is listed."""
    name, value, listed = "", record, False
    for key in at:
        part, value = list(named_values(value))[list(value).index(key) if isinstance(value, dict) else key]
        name = name + part if part.startswith("[") else f"{name}.{part}".removeprefix(".")
        listed = listed or name in names
    return listed


@tried_on(300)
@given(rows=st.tuples(SFT_ROWS, st.just(sft)) | st.tuples(DPO_ROWS, st.just(dpo)), others=OTHERS, data=st.data())
def test_a_changed_value_changes_what_is_trained_or_is_listed(
    rows: tuple[dict[str, Any], Draft], others: dict[str, Any], data: st.DataObject
) -> None:
    record, draft = rows[0] | others, rows[1]
    made = draft(record)
    names = unused_in(record, draft=draft)
    at = data.draw(st.sampled_from(list(places(record))))
    try:
        has_effect = draft(changed(record, at, data)) != made
    except RowError:
        has_effect = True
    assert has_effect or is_listed(record, at, names)
    assert not (has_effect and is_listed(record, at, names)), "what has an effect is not listed"


def test_the_names_of_places_are_short_enough_for_status() -> None:
    (found,) = unused_in({"text": "t", "x" * 200: 1})
    assert len(found) == unused.MAX_UNUSED_NAME
