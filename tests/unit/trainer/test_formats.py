"""Row formats: what each normaliser makes of a record, and what it says about one that it cannot use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation
from lora_trainer.data.formats import Completion, Text, detect_format, normalise
from lora_trainer.errors import TrainerError

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def calling(calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": calls}


def turns(record: dict[str, Any], row_format: RowFormat = RowFormat.MESSAGES) -> list[tuple[str, str]]:
    row = normalise(record, row_format, None)
    assert isinstance(row, Conversation)
    return [(turn.role, turn.content) for turn in row.turns]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [], "text": ""}, RowFormat.MESSAGES),
        ({"conversations": []}, RowFormat.SHAREGPT),
        ({"instruction": "", "input": "", "output": ""}, RowFormat.ALPACA),
        ({"prompt": "", "completion": ""}, RowFormat.PROMPT_COMPLETION),
        ({"text": "", "meta": 1}, RowFormat.TEXT),
    ],
)
def test_the_format_is_detected_from_the_columns(record: dict[str, Any], expected: RowFormat) -> None:
    assert detect_format([record], None) is expected


def test_mapped_columns_count_for_detection() -> None:
    columns = {"prompt": "question", "completion": "query"}
    assert detect_format([{"question": "", "query": ""}], columns) is RowFormat.PROMPT_COMPLETION


def test_a_first_row_that_fits_no_format_does_not_decide() -> None:
    assert detect_format([{"oops": 1}, {"text": "t"}], None) is RowFormat.TEXT


@pytest.mark.parametrize("unreadable", [{"messages": "oops"}, {"prompt": None, "completion": "a"}, {"text": 5}])
def test_a_row_that_cannot_be_read_does_not_decide(unreadable: dict[str, Any]) -> None:
    assert detect_format([unreadable, unreadable, {"text": "t"}], None) is RowFormat.TEXT
    assert detect_format([unreadable], None) is detect_format([unreadable, {"oops": 1}], None)


def test_most_rows_decide() -> None:
    text, chat = {"text": "t"}, {"messages": [USER, ASSISTANT]}
    assert detect_format([text, chat, chat], None) is RowFormat.MESSAGES
    assert detect_format([text, chat], None) is RowFormat.TEXT


def test_unknown_columns_are_named_with_a_remedy() -> None:
    with pytest.raises(TrainerError) as caught:
        detect_format([{"question": "", "sql": ""}], None)
    assert caught.value.code is ExitCode.DatasetInvalid
    assert "question, sql" in caught.value.message
    assert "dataset.columns" in (caught.value.remedy or "")


def test_messages() -> None:
    assert turns({"messages": [USER, ASSISTANT]}) == [("user", "q"), ("assistant", "a")]


def test_sharegpt_roles_are_translated() -> None:
    record = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
            {"from": "observation", "value": "t"},
        ]
    }
    assert turns(record, RowFormat.SHAREGPT) == [("system", "s"), ("user", "q"), ("assistant", "a"), ("tool", "t")]


def test_a_system_column_goes_first() -> None:
    assert turns({"messages": [USER, ASSISTANT], "system": "s"})[0] == ("system", "s")


def test_text_parts_are_joined_and_null_keys_of_parquet_are_left_out() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = normalise({"messages": [{**USER, "name": None}, {**ASSISTANT, "content": parts}]}, RowFormat.MESSAGES, None)
    assert isinstance(row, Conversation)
    assert row.turns[0].message() == USER
    assert row.turns[1].content == "ab"


def test_tool_calls_need_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    row = normalise({"messages": [USER, call], "tools": [{"name": "f"}]}, RowFormat.MESSAGES, None)
    assert isinstance(row, Conversation)
    calls = [{"name": "f", "arguments": {}}]
    assert row.turns[1].message() == {"role": "assistant", "content": "", "tool_calls": calls}
    assert row.tools == ({"name": "f"},)


CALLED = {"name": "f", "arguments": {"x": 1}}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([CALLED], [CALLED]),
        ([CALLED | {"arguments": '{"x": 1}'}], [CALLED]),
        (json.dumps([CALLED]), [CALLED]),
        (
            [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
            [{"id": "1", "type": "function", "function": CALLED}],
        ),
    ],
)
def test_calls_reach_the_template_as_objects(calls: Any, expected: list) -> None:
    row = normalise({"messages": [USER, {"role": "assistant", "tool_calls": calls}]}, RowFormat.MESSAGES, None)
    assert isinstance(row, Conversation)
    assert row.turns[1].extra["tool_calls"] == expected


def test_tools_and_calls_of_sharegpt() -> None:
    turns_ = [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(CALLED)}]
    row = normalise({"conversations": turns_, "tools": '[{"name": "f"}]'}, RowFormat.SHAREGPT, None)
    assert isinstance(row, Conversation)
    assert (row.turns[1].role, row.turns[1].content, row.turns[1].extra) == ("assistant", "", {"tool_calls": [CALLED]})
    assert row.tools == ({"name": "f"},)


def test_alpaca_joins_instruction_and_input() -> None:
    row = normalise({"instruction": "i", "input": "x", "output": "o"}, RowFormat.ALPACA, None)
    assert isinstance(row, Completion)
    assert (row.prompt, row.completion) == ("i\n\nx", "o")
    assert row.plain_prompt == "### Instruction:\ni\n\n### Input:\nx\n\n### Response:\n"


def test_alpaca_without_input() -> None:
    row = normalise({"instruction": "i", "input": "", "output": "o"}, RowFormat.ALPACA, None)
    assert isinstance(row, Completion)
    assert row.prompt == "i"


def test_prompt_and_completion_as_text_become_a_chat() -> None:
    row = normalise({"prompt": "q", "completion": "a", "system": "s"}, RowFormat.PROMPT_COMPLETION, None)
    assert isinstance(row, Completion)
    assert [turn.role for turn in row.conversation().turns] == ["system", "user", "assistant"]


def test_prompt_and_completion_as_messages() -> None:
    record = {"prompt": [USER], "completion": [ASSISTANT]}
    assert turns(record, RowFormat.PROMPT_COMPLETION) == [("user", "q"), ("assistant", "a")]


def test_prompt_and_completion_may_be_one_message_each() -> None:
    assert turns({"prompt": USER, "completion": ASSISTANT}, RowFormat.PROMPT_COMPLETION) == [
        ("user", "q"),
        ("assistant", "a"),
    ]


HISTORY = [["Name village 0.", "Village 0 is called V0."]]


@pytest.mark.parametrize(
    ("record", "row_format"),
    [
        ({"instruction": "And who?", "input": "", "output": "0 people."}, RowFormat.ALPACA),
        ({"prompt": "And who?", "completion": "0 people."}, RowFormat.PROMPT_COMPLETION),
    ],
)
def test_a_history_comes_before_the_question(record: dict[str, Any], row_format: RowFormat) -> None:
    assert turns({**record, "system": "s", "history": HISTORY}, row_format) == [
        ("system", "s"),
        ("user", "Name village 0."),
        ("assistant", "Village 0 is called V0."),
        ("user", "And who?"),
        ("assistant", "0 people."),
    ]


@pytest.mark.parametrize("row_format", [RowFormat.ALPACA, RowFormat.PROMPT_COMPLETION])
def test_an_empty_history_is_none(row_format: RowFormat) -> None:
    names = {"instruction": "i", "output": "o", "prompt": "i", "completion": "o"}
    assert isinstance(normalise({**names, "history": []}, row_format, None), Completion)


def test_tools_beside_texts_make_a_chat() -> None:
    row = normalise({"prompt": "q", "completion": "a", "tools": [{"name": "f"}]}, RowFormat.PROMPT_COMPLETION, None)
    assert isinstance(row, Conversation)
    assert row.tools == ({"name": "f"},)


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"train": 0}, {"loss": False}]
)
def test_a_mark_says_which_answers_are_learned(mark: dict[str, Any]) -> None:
    marked = {"role": "assistant", "content": "3", **mark}
    learned = {"role": "assistant", "content": "2", **dict.fromkeys(mark, 1)}
    row = normalise({"messages": [{**USER, **mark}, marked, USER, learned]}, RowFormat.MESSAGES, None)
    assert isinstance(row, Conversation)
    assert [turn.learned for turn in row.turns] == [False, False, False, True]
    assert row.turns[1].message() == {"role": "assistant", "content": "3"}, "no template reads the mark"


def test_what_follows_the_last_learned_answer_is_not_needed() -> None:
    unlearned = {**ASSISTANT, "weight": 0}
    row = normalise({"messages": [USER, ASSISTANT, USER, unlearned, USER]}, RowFormat.MESSAGES, None)
    assert isinstance(row, Conversation)
    assert [turn.place for turn in row.until_last_answer().turns] == ["messages[0]", "messages[1]"]


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_blank_texts_are_none(blank: str) -> None:
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    plain = normalise(row, RowFormat.SHAREGPT, None)
    assert normalise({**row, "tools": blank, "system": blank}, RowFormat.SHAREGPT, None) == plain
    called = normalise({"messages": [USER, {**ASSISTANT, "tool_calls": blank}]}, RowFormat.MESSAGES, None)
    assert called == normalise({"messages": [USER, ASSISTANT]}, RowFormat.MESSAGES, None)


def test_parts_without_a_type_are_texts() -> None:
    record = {"system": [{"text": "s"}], "messages": [USER, {**ASSISTANT, "content": [{"text": "a"}, {"text": "b"}]}]}
    assert turns(record) == [("system", "s"), ("user", "q"), ("assistant", "ab")]


def test_a_part_that_is_null_is_no_text() -> None:
    parts = [{"type": "text", "text": "The porter."}, {"type": "text", "text": None}]
    assert turns({"messages": [USER, {**ASSISTANT, "content": parts}]})[1] == ("assistant", "The porter.")


@pytest.mark.parametrize("history", [[], [["q", "a"]]])
def test_texts_keep_the_columns_that_they_stand_in(history: list) -> None:
    record = {"ask": "i", "output": "o", "history": history}
    row = normalise(record, RowFormat.ALPACA, {"instruction": "ask"})
    chat = row.conversation() if isinstance(row, Completion) else row
    assert isinstance(chat, Conversation)
    assert [turn.place for turn in chat.turns][-2:] == ["ask", "output"]


def test_text() -> None:
    assert normalise({"text": "t"}, RowFormat.TEXT, None) == Text(text="t")


def test_a_mapped_column_wins_over_one_of_the_expected_name() -> None:
    assert normalise({"text": "no", "body": "yes"}, RowFormat.TEXT, {"text": "body"}) == Text(text="yes")


@pytest.mark.parametrize(
    ("record", "row_format", "words"),
    [
        ({"other": 1}, RowFormat.TEXT, "the column text is missing (found other)"),
        ({"text": None}, RowFormat.TEXT, "the column text is null"),
        ({"text": 5}, RowFormat.TEXT, "the column text is a number instead of a string"),
        ({"instruction": "i"}, RowFormat.ALPACA, "the column output is missing"),
        ({"messages": "hi"}, RowFormat.MESSAGES, "messages is a string instead of a list of messages"),
        ({"messages": ["hi"]}, RowFormat.MESSAGES, "messages[0] is a string instead of an object"),
        ({"messages": [USER]}, RowFormat.MESSAGES, "messages has no assistant message"),
        ({"messages": []}, RowFormat.MESSAGES, "messages has no assistant message"),
        ({"messages": [{"content": "q"}]}, RowFormat.MESSAGES, "messages[0] has no role"),
        ({"messages": [{**USER, "role": "wizard"}]}, RowFormat.MESSAGES, "unknown role 'wizard'"),
        ({"messages": [{**USER, "role": ["user"]}]}, RowFormat.MESSAGES, "unknown role"),
        ({"messages": [USER, {"role": "assistant"}]}, RowFormat.MESSAGES, "messages[1] has no content (found role)"),
        (
            {"messages": [USER, {"role": "assistant", "content": None}]},
            RowFormat.MESSAGES,
            "messages[1] has null as content instead of a string",
        ),
        (
            {"messages": [{**USER, "content": [{"type": "image_url"}]}]},
            RowFormat.MESSAGES,
            "messages[0] has a part of type image_url; only text can be trained on",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"text": "q"}]}]},
            RowFormat.MESSAGES,
            "messages[0] has no content (found parts, role)",
        ),
        (
            {"conversations": [{"role": "user", "value": "q"}]},
            RowFormat.SHAREGPT,
            "conversations[0] has no content (found role, value)",
        ),
        (
            {"conversations": [{"from": "human", "content": "q"}]},
            RowFormat.SHAREGPT,
            "conversations[0] has no value (found content, from)",
        ),
        (
            {"system": "s", "messages": [USER, {**ASSISTANT, "content": [{"type": "tool_use", "name": "f"}]}]},
            RowFormat.MESSAGES,
            "messages[1] has a part of type tool_use; only text can be trained on",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "content": [{"image": {}}]}]},
            RowFormat.MESSAGES,
            "messages[1] has a part of image; only text can be trained on",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "content": ["a"]}]},
            RowFormat.MESSAGES,
            "messages[1] has a part that is a string",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "content": [{"text": 1}]}]},
            RowFormat.MESSAGES,
            "messages[1] has a number as text of a part instead of a string",
        ),
        (
            {"system": "s", "messages": [USER, {"role": "wizard", "content": "a"}]},
            RowFormat.MESSAGES,
            "messages[1] has the unknown role 'wizard'",
        ),
        (
            {"prompt": [USER], "completion": [{"role": "wizard", "content": "a"}]},
            RowFormat.PROMPT_COMPLETION,
            "completion[0] has the unknown role 'wizard'",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "weight": 0.5}]},
            RowFormat.MESSAGES,
            "messages[1].weight is neither 0 nor 1",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "train_detail": [{"begin_offset": 0}]}]},
            RowFormat.MESSAGES,
            "messages[1].train_detail is not read: mark the whole message with train",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            RowFormat.MESSAGES,
            "messages[1].function_call is not read: write it as tool_calls",
        ),
        (
            {"messages": [USER, ASSISTANT], "functions": [{"name": "f"}]},
            RowFormat.MESSAGES,
            "the column functions is not read: write it as tools",
        ),
        (
            {"messages": [USER, ASSISTANT], "history": HISTORY},
            RowFormat.MESSAGES,
            "the column history stands beside messages: put its turns into messages",
        ),
        (
            {"instruction": "i", "output": "o", "history": "x"},
            RowFormat.ALPACA,
            "the column history is a string instead of a list of [question, answer]",
        ),
        (
            {"instruction": "i", "output": "o", "history": [["q"]]},
            RowFormat.ALPACA,
            "history[0] is not [question, answer], two strings",
        ),
        ({"text": "t", "images": ["a.png"]}, RowFormat.TEXT, "the column images is not read: only text can be"),
        ({"messages": [USER, ASSISTANT], "tools": "f"}, RowFormat.MESSAGES, "the column tools is not JSON (Expecting"),
        ({"messages": [USER, ASSISTANT], "tools": 5}, RowFormat.MESSAGES, "the column tools is not a list of tools"),
        ({"messages": [USER, calling("{")]}, RowFormat.MESSAGES, "messages[1].tool_calls is not JSON"),
        ({"messages": [USER, calling([5])]}, RowFormat.MESSAGES, "messages[1].tool_calls is not a list of calls"),
        ({"messages": [USER, calling([{"name": 1}])]}, RowFormat.MESSAGES, "a call without a function name"),
        (
            {"messages": [USER, calling([{"name": "f", "arguments": "[]"}])]},
            RowFormat.MESSAGES,
            "messages[1].tool_calls calls f with arguments that are not an object",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record: dict[str, Any], row_format: RowFormat, words: str) -> None:
    with pytest.raises(RowError) as caught:
        normalise(record, row_format, None)
    assert words in str(caught.value)


def test_a_missing_mapped_column_is_named_as_the_user_names_it() -> None:
    with pytest.raises(RowError, match="the column body is missing"):
        normalise({"other": 1}, RowFormat.TEXT, {"text": "body"})
