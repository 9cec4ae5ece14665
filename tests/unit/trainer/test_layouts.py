"""How rows lie in JSON files: which values are rows, and what is not one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lora_trainer.data.layouts import columns_of, rows_of
from lora_trainer.data.values import ValueFlaw

QUESTION, ANSWER = {"role": "user", "content": "Who keeps the keys?"}, {"role": "assistant", "content": "The porter."}
CHAT = [QUESTION, ANSWER]
SHAREGPT = [{"from": "human", "value": "Who keeps the keys?"}, {"from": "gpt", "value": "The porter."}]
CALL = {"role": "assistant", "tool_calls": []}


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ([{"text": "a"}, {"text": "b"}], [{"text": "a"}, {"text": "b"}]),
        ({"text": "a"}, [{"text": "a"}]),
        ({"data": [{"text": "a"}]}, [{"text": "a"}]),
        ({"data": [CHAT, CHAT]}, [CHAT, CHAT]),
        ({"data": [{"text": "a"}, "oops", None]}, [{"text": "a"}, "oops", None]),
        ({"data": [{"text": "a"}], "version": 1}, [{"data": [{"text": "a"}], "version": 1}]),
        # One conversation is one row, whatever its column is called.
        ({"messages": CHAT}, [{"messages": CHAT}]),
        ({"conversations": SHAREGPT}, [{"conversations": SHAREGPT}]),
        ({"prompt": CHAT}, [{"prompt": CHAT}]),
        ({"dialog": CHAT}, [{"dialog": CHAT}]),
        ({"dialog": [*CHAT, "oops"]}, [{"dialog": [*CHAT, "oops"]}]),
        ({"tags": ["a", "b"]}, [{"tags": ["a", "b"]}]),
        ({"messages": [{"text": "a"}]}, [{"messages": [{"text": "a"}]}]),
        (CHAT, [CHAT]),
        ([QUESTION, CALL], [[QUESTION, CALL]]),
        ([SHAREGPT, SHAREGPT], [SHAREGPT, SHAREGPT]),
        # pandas.DataFrame.to_json
        (
            {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}},
            [{"prompt": "a", "completion": "c"}, {"prompt": "b", "completion": "d"}],
        ),
        ({"chosen": QUESTION, "rejected": ANSWER}, [{"chosen": QUESTION, "rejected": ANSWER}]),
        ({"prompt": {"0": "a"}, "completion": {"1": "c"}}, [{"prompt": {"0": "a"}, "completion": {"1": "c"}}]),
        ({"text": ["a"]}, [{"text": ["a"]}]),
        ({}, [{}]),
        ([], []),
        (5, [5]),
    ],
    ids=json.dumps,
)
def test_rows_of_a_json_file(value: Any, rows: list[Any]) -> None:
    assert rows_of(value) == rows


@pytest.mark.parametrize(
    ("row", "columns"),
    [({"a": 1}, {"a": 1}), (CHAT, {"messages": CHAT}), (SHAREGPT, {"conversations": SHAREGPT})],
)
def test_a_list_of_messages_is_a_conversation(row: Any, columns: dict[str, Any]) -> None:
    assert columns_of(row) == columns


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([{"messages": CHAT}, {"messages": CHAT}], "a list of rows instead of one row"),
        ([CHAT, CHAT], "a list of rows"),
        (
            {"prompt": {"0": "a"}, "completion": {"0": "b"}},
            r"column by column .* to_json\(orient='records', lines=True",
        ),
        ([], "not a JSON object or a list of messages"),
        (["a", "b"], "not a JSON object"),
        ("a", "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_what_is_no_row(row: Any, reason: str) -> None:
    with pytest.raises(ValueFlaw, match=reason):
        columns_of(row)
