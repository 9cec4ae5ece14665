"""Files of other tools: every shape of the table is read, or refused with what would read it."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import Record, RowError
from lora_trainer.data.conversations import Conversation
from lora_trainer.data.formats import Completion, Text, detect_format, normalise
from lora_trainer.data.preferences import Preference, normalise_pair
from lora_trainer.data.questions import Question, normalise_question
from lora_trainer.data.shapes import SHAPES, FileShape
from lora_trainer.errors import TrainerError

ASKED = "Where is my parcel?"


def read(record: Record, method: Method, columns: Any = None) -> list[tuple[str, str]]:
    """The roles and contents of what is made of a row; of the chosen side of a pair."""
    row_format = detect_format([record], columns, method)
    match method:
        case Method.SFT:
            row = normalise(record, row_format, columns)
        case Method.DPO:
            row = normalise_pair(record, columns)
        case Method.GRPO:
            row = normalise_question(record, columns, needed=("answer",))
    chat = row.chosen if isinstance(row, Preference) else row.asked if isinstance(row, Question) else row
    assert not isinstance(chat, Text)
    turns = (chat.conversation() if isinstance(chat, Completion) else chat).turns
    return [(turn.role, turn.content) for turn in turns]


def named(shape: FileShape) -> str:
    return f"{shape.tool}: {shape.content}"


def only(*, refused: bool, mapped: bool) -> Any:
    shapes = [shape for shape in SHAPES if bool(shape.refusal) is refused and bool(shape.columns) is mapped]
    return pytest.mark.parametrize("shape", shapes, ids=named)


@only(refused=False, mapped=False)
def test_a_shape_is_read(shape: FileShape) -> None:
    turns = read(shape.example, shape.method)
    assert any("parcel" in content or "Translate" in content for _, content in turns)
    assert turns[-1][0] == "assistant"


@only(refused=False, mapped=True)
def test_a_refusal_names_the_mapping_that_reads_it(shape: FileShape) -> None:
    mapping = "{" + ", ".join(f"{name}: {theirs}" for name, theirs in (shape.columns or {}).items()) + "}"
    with pytest.raises((TrainerError, RowError)) as caught:
        read(shape.example, shape.method)
    told = caught.value.remedy if isinstance(caught.value, TrainerError) else str(caught.value)
    assert mapping in (told or "")
    assert ("user", ASKED) in read(shape.example, shape.method, shape.columns)


@only(refused=True, mapped=False)
def test_what_cannot_be_read_is_refused_by_name(shape: FileShape) -> None:
    with pytest.raises((TrainerError, RowError)) as caught:
        read(shape.example, shape.method)
    assert str(shape.refusal) in str(caught.value)
    assert shape.remedy


def test_the_table_has_every_tool_that_exports_rows() -> None:
    tools = " ".join(shape.tool for shape in SHAPES)
    expected = "OpenAI Anthropic Gemini Vertex Bedrock Mistral Together ShareGPT Alpaca LLaMA-Factory axolotl"
    for tool in (*expected.split(), "Label Studio", "Argilla"):
        assert tool in tools


GEMINI = [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}, {"text": "b"}]}]


def test_a_chat_of_gemini() -> None:
    record = {"systemInstruction": {"role": "system", "parts": [{"text": "s"}]}, "contents": GEMINI}
    assert detect_format([record], None) is RowFormat.MESSAGES
    assert read(record, Method.SFT) == [("system", "s"), ("user", "q"), ("assistant", "ab")]
    assert read({"systemInstruction": "s", "contents": [GEMINI[1]]}, Method.SFT) == [
        ("system", "s"),
        ("assistant", "ab"),
    ]


def test_a_pair_of_openai_has_its_tools() -> None:
    answers = {"preferred_output": [{"role": "assistant", "content": "a"}]}
    answers["non_preferred_output"] = [{"role": "assistant", "content": "b"}]
    asked = {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "f"}]}
    pair = normalise_pair({"input": asked, **answers}, None)
    assert isinstance(pair.rejected, Conversation)
    assert pair.rejected.tools == ({"name": "f"},)
    assert pair.rejected.turns[-1].content == "b"


def test_the_better_completion_of_gemini_is_chosen() -> None:
    worse, better = (
        {"score": score, "completion": {"role": "model", "parts": [{"text": str(score)}]}} for score in (0, 1)
    )
    record = {"contents": GEMINI[:1], "completions": [worse, better]}
    assert read(record, Method.DPO) == [("user", "q"), ("assistant", "1")]


@pytest.mark.parametrize(
    ("record", "method", "words"),
    [
        ({"contents": ["q"]}, Method.SFT, r"^contents\[0\] is a string instead of an object with role and parts"),
        (
            {"contents": [{"role": "user", "content": "q"}]},
            Method.SFT,
            r"^contents\[0\] has no parts \(found content, ro",
        ),
        ({"contents": [{"role": "wizard", "parts": []}]}, Method.SFT, r"^contents\[0\] has the unknown role"),
        (
            {"contents": [*GEMINI, {"role": "model", "parts": [{"functionCall": {}}]}]},
            Method.SFT,
            r"^contents\[2\] has a part of functionCall; only text can be trained on",
        ),
        ({"systemInstruction": {}, "contents": GEMINI}, Method.SFT, r"^systemInstruction has no parts \(found none\)"),
        ({"contents": GEMINI[:1], "completions": []}, Method.DPO, "^the column completions is not a list of two"),
        (
            {"contents": GEMINI[:1], "completions": [{"score": 1, "completion": GEMINI[1]}] * 2},
            Method.DPO,
            "^completions do not have two different scores",
        ),
        (
            {"input": "q", "preferred_output": [], "non_preferred_output": []},
            Method.DPO,
            "^the column input is a string instead of an object with messages",
        ),
        (
            {"input": {"messages": [{"role": "user"}]}, "preferred_output": [], "non_preferred_output": []},
            Method.DPO,
            r"^input\.messages\[0\] has no content",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record: dict[str, Any], method: Method, words: str) -> None:
    with pytest.raises(RowError, match=words):
        normalise_pair(record, None) if method is Method.DPO else normalise(record, RowFormat.MESSAGES, None)


@pytest.mark.parametrize(
    ("names", "method", "mapping"),
    [
        (["question", "answer"], Method.SFT, "{prompt: question, completion: answer}"),
        (["instruction", "response", "context", "category"], Method.SFT, "{input: context, output: response}"),
        (["input", "output"], Method.SFT, "{prompt: input, completion: output}"),
        (["dialogue", "id"], Method.SFT, "{messages: dialogue}"),
        (["question", "accepted", "rejected"], Method.DPO, "{prompt: question, chosen: accepted}"),
        (["question", "answer"], Method.GRPO, "{prompt: question}"),
        (["dialog", "topic"], Method.DPO, "for example {chosen: better, rejected: worse}"),
    ],
)
def test_the_mapping_is_made_of_the_columns_that_were_found(names: list[str], method: Method, mapping: str) -> None:
    with pytest.raises(TrainerError) as caught:
        detect_format([dict.fromkeys(names, "x")], None, method)
    assert mapping in (caught.value.remedy or "")
