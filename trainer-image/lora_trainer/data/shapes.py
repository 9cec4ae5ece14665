"""Shapes of the files that other tools write: one table, each with an example row. Pure; reads no file.

Most shapes have the columns of a row format and need nothing. Some are written again as one; others are refused, with
the dataset.columns that would read them or with what to do. docs/tasks/prepare-data.md has this table too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import Record, RowError, kind_of, shown_names


@dataclass(frozen=True, kw_only=True)
class FileShape:
    """What the rows of one tool's file look like, and what becomes of them."""

    tool: str
    """Who writes or reads such files."""
    content: str
    """What is in them."""
    method: Method = Method.SFT
    example: Record
    sign: frozenset[str] = frozenset()
    """Columns that only rows of this shape have; unset where a row format has its columns."""
    read: Callable[[Record], Record] | None = None
    """Writes a row again with the columns of a row format. Raises RowError."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The user's column for each that is written again, for messages."""
    columns: Mapping[str, str] | None = None
    """The dataset.columns that read it."""
    refusal: str | None = None
    """Why it cannot be read, as far as this is known before a row is read."""
    remedy: str | None = None
    """What to do about that."""


def _preferred(record: Record) -> Record:
    asked = record["input"]
    if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
        raise RowError(f"the column input is {kind_of(asked)} instead of an object with messages")
    others = {name: value for name, value in record.items() if name not in ("input", *PREFERRED)}
    answers = {"chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    return {**others, "prompt": asked["messages"], "tools": asked.get("tools"), **answers}


def _gemini(record: Record) -> Record:
    others = {name: value for name, value in record.items() if name not in ("contents", "systemInstruction")}
    contents = record["contents"]
    listed = contents if isinstance(contents, list) else [contents]
    messages = [_gemini_message(message, f"contents[{index}]") for index, message in enumerate(listed)]
    system = record.get("systemInstruction")
    first = {} if system is None else {"system": _gemini_parts(system, "systemInstruction")}
    return {**others, **first, "messages": messages}


def _gemini_message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RowError(f"{place} is {kind_of(message)} instead of an object with role and parts")
    others = {name: value for name, value in message.items() if name != "parts"}
    return {"role": "user", **others, "content": _gemini_parts(message, place)}


def _gemini_parts(content: Any, place: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, Mapping) or not isinstance(content.get("parts"), list):
        found = shown_names(content) if isinstance(content, Mapping) else kind_of(content)
        raise RowError(f"{place} has no parts (found {found})")
    return content["parts"]


def _gemini_pair(record: Record) -> Record:
    others = {name: value for name, value in record.items() if name != "completions"}
    row = dict(_gemini(others))
    answers = record["completions"]
    if not isinstance(answers, list) or len(answers) != 2 or not all(isinstance(each, Mapping) for each in answers):
        raise RowError("the column completions is not a list of two completions, each with a score")
    better, worse = answers
    scores = better.get("score"), worse.get("score")
    if not all(isinstance(score, int | float) for score in scores) or scores[0] == scores[1]:
        raise RowError("completions do not have two different scores")
    if scores[0] < scores[1]:
        better, worse = worse, better
    for name, answer in (("chosen", better), ("rejected", worse)):
        place = f"completions[{answers.index(answer)}].completion"
        row[name] = [_gemini_message(answer.get("completion"), place)]
    row["prompt"] = row.pop("messages")
    return row


PREFERRED = ("preferred_output", "non_preferred_output")
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
ANSWER = [{"role": "assistant", "content": "It arrives today."}]
WORSE = [{"role": "assistant", "content": "No idea."}]
TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {"number": {"type": "string"}}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"number": "7"}'}}
HUMAN = {"from": "human", "value": "Where is my parcel?"}
GPT = {"from": "gpt", "value": "It arrives today."}

SHAPES = (
    FileShape(
        tool="OpenAI",
        content="chats, with tools",
        example={
            "messages": [*QUESTION, {"role": "assistant", "tool_calls": [CALL]}],
            "tools": [TOOL],
        },
    ),
    FileShape(
        tool="OpenAI, Together",
        content="preferences",
        method=Method.DPO,
        example={"input": {"messages": QUESTION}, "preferred_output": ANSWER, "non_preferred_output": WORSE},
        sign=frozenset({"input", *PREFERRED}),
        read=_preferred,
        names={"prompt": "input.messages", "chosen": PREFERRED[0], "rejected": PREFERRED[1]},
    ),
    FileShape(
        tool="OpenAI",
        content="reinforcement",
        method=Method.GRPO,
        example={"messages": QUESTION, "answer": "today"},
        columns={"prompt": "messages"},
    ),
    FileShape(
        tool="Anthropic",
        content="chats",
        example={
            "system": "Be brief.",
            "messages": [*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "It arrives today."}]}],
        },
    ),
    FileShape(
        tool="Anthropic",
        content="chats with tool_use",
        example={
            "messages": [
                *QUESTION,
                {"role": "assistant", "content": [{"type": "tool_use", "name": "find", "input": {}}]},
            ]
        },
        refusal="a part of type tool_use; only text can be trained on",
        remedy="write tool_calls, and messages with the role tool",
    ),
    FileShape(
        tool="Gemini, Vertex AI",
        content="chats",
        example={
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Where is my parcel?"}]},
                {"role": "model", "parts": [{"text": "It arrives today."}]},
            ],
        },
        sign=frozenset({"contents"}),
        read=_gemini,
        names={"messages": "contents", "system": "systemInstruction"},
    ),
    FileShape(
        tool="Gemini, Vertex AI",
        content="preferences",
        method=Method.DPO,
        example={
            "contents": [{"role": "user", "parts": [{"text": "Where is my parcel?"}]}],
            "completions": [
                {"score": 1, "completion": {"role": "model", "parts": [{"text": "It arrives today."}]}},
                {"score": 0, "completion": {"role": "model", "parts": [{"text": "No idea."}]}},
            ],
        },
        sign=frozenset({"contents", "completions"}),
        read=_gemini_pair,
        names={"prompt": "contents", "chosen": "completions", "rejected": "completions", "system": "systemInstruction"},
    ),
    FileShape(
        tool="Vertex AI",
        content="texts",
        example={"input_text": "Where is my parcel?", "output_text": "It arrives today."},
        columns={"prompt": "input_text", "completion": "output_text"},
    ),
    FileShape(
        tool="Bedrock",
        content="chats",
        example={
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "Where is my parcel?"}]},
                {"role": "assistant", "content": [{"text": "It arrives today."}]},
            ],
        },
    ),
    FileShape(
        tool="Bedrock, Together",
        content="texts",
        example={"prompt": "Where is my parcel?", "completion": "It arrives today."},
    ),
    FileShape(
        tool="Mistral, OpenAI, Together",
        content="chats, some answers with weight 0",
        example={
            "messages": [*QUESTION, {"role": "assistant", "content": "?", "weight": 0}, *QUESTION, *ANSWER],
        },
    ),
    FileShape(tool="ShareGPT", content="chats", example={"conversations": [HUMAN, GPT], "system": "Be brief."}),
    FileShape(
        tool="LLaMA-Factory (ShareGPT)",
        content="preferences",
        method=Method.DPO,
        example={"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "No idea."}},
    ),
    FileShape(
        tool="Alpaca",
        content="instructions",
        example={"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"},
    ),
    FileShape(
        tool="LLaMA-Factory (Alpaca)",
        content="instructions with a history",
        example={
            "instruction": "And when?",
            "input": "",
            "output": "At nine.",
            "history": [["Where is my parcel?", "It arrives today."]],
        },
    ),
    FileShape(
        tool="LLaMA-Factory (Alpaca)",
        content="preferences",
        method=Method.DPO,
        example={"instruction": "Where is my parcel?", "input": "", "chosen": "It arrives today.", "rejected": "No."},
    ),
    FileShape(
        tool="LLaMA-Factory",
        content="images, videos or audios",
        example={"messages": [*QUESTION, *ANSWER], "images": ["parcel.png"]},
        refusal="the column images is not read: only text can be trained on",
        remedy="take the column out",
    ),
    FileShape(
        tool="LLaMA-Factory",
        content="answers marked for KTO",
        example={"messages": [*QUESTION, *ANSWER], "kto_tag": True},
        refusal="the column kto_tag is not read: no method here learns from single answers that are marked good or bad",
        remedy="keep the good answers, and take the column out",
    ),
    FileShape(
        tool="axolotl",
        content="chats, some messages with train or training false",
        example={
            "messages": [*QUESTION, {"role": "assistant", "content": "?", "train": False}, *QUESTION, *ANSWER],
        },
    ),
    FileShape(
        tool="axolotl",
        content="segments (input_output)",
        example={
            "segments": [
                {"label": False, "text": "Where is my parcel? "},
                {"label": True, "text": "It arrives today."},
            ]
        },
        sign=frozenset({"segments"}),
        refusal="The rows are segments of text as axolotl's input_output has them",
        remedy="Write what is not learned as the column prompt, and what is learned as completion.",
    ),
    FileShape(
        tool="axolotl (Intel)",
        content="preferences",
        method=Method.DPO,
        example={"question": "Where is my parcel?", "chosen": "It arrives today.", "rejected": "No idea."},
        columns={"prompt": "question"},
    ),
    FileShape(
        tool="axolotl (Argilla)",
        content="preferences",
        method=Method.DPO,
        example={
            "instruction": "Where is my parcel?",
            "chosen_response": "It arrives today.",
            "rejected_response": "No idea.",
        },
        columns={"chosen": "chosen_response", "rejected": "rejected_response"},
    ),
    FileShape(
        tool="Label Studio",
        content="JSON-MIN",
        example={"id": 1, "prompt": "Where is my parcel?", "response": "It arrives today.", "annotator": 1},
        columns={"completion": "response"},
    ),
    FileShape(
        tool="Label Studio",
        content="JSON",
        example={"id": 1, "data": {"prompt": "Where is my parcel?"}, "annotations": [{"result": []}]},
        sign=frozenset({"data", "annotations"}),
        refusal="The rows are tasks of Label Studio with all their annotations",
        remedy="Export them as JSON-MIN, and name its columns in dataset.columns, for example {completion: response}.",
    ),
    FileShape(
        tool="Argilla",
        content="records",
        example={"id": "1", "fields": {"prompt": "Where is my parcel?"}, "responses": {"answer": [{"value": "today"}]}},
        sign=frozenset({"fields", "responses"}),
        refusal="The rows are records of Argilla with all their responses",
        remedy="Write one prompt and one response of each record as the columns prompt and completion.",
    ),
)
"""A new shape is one more entry."""

READ = tuple(sorted((shape for shape in SHAPES if shape.read), key=lambda shape: -len(shape.sign)))
"""Shapes that are written again; those with more columns to tell them by first."""
REFUSED = tuple(shape for shape in SHAPES if shape.refusal and shape.sign)
NOT_READ = {
    **dict.fromkeys(("images", "videos", "audios"), "only text can be trained on"),
    "kto_tag": "no method here learns from single answers that are marked good or bad",
}
"""Columns that other tools read and prepare does not, with why."""
OTHER_NAMES = {
    "messages": ("conversation", "dialog", "dialogue", "chat"),
    "prompt": ("question", "query", "problem", "input", "input_text", "inputs", "instruction", "messages"),
    "completion": ("answer", "response", "output", "output_text", "solution", "assistant", "target", "targets"),
    "output": ("response", "answer", "completion", "target"),
    "input": ("context",),
    "chosen": ("chosen_response", "accepted", "preferred", "better"),
    "rejected": ("rejected_response", "dispreferred", "worse"),
}
"""What other tools call the columns of the row formats."""
MAPPED = {
    Method.SFT: (
        ("messages",),
        ("instruction", "input", "output"),
        ("instruction", "output"),
        ("prompt", "completion"),
    ),
    Method.DPO: tuple(
        (*question, "chosen", "rejected")
        for question in (("instruction",), ("messages",), ("conversations",), ("prompt",), ())
    ),
    Method.GRPO: (("prompt",),),
}
"""Columns that a method reads together; the first of them that a row has by some name are meant."""


def known(row: Record, method: Method) -> tuple[Record, Mapping[str, str]]:
    """The row with the columns of a row format, and the user's names of those that were written again.

    Raises RowError.
    """
    for name in NOT_READ.keys() & row.keys():
        if row[name]:
            raise RowError(f"the column {name} is not read: {NOT_READ[name]}")
    for shape in READ:
        if shape.method is method and shape.sign <= row.keys():
            assert shape.read
            return shape.read(row), shape.names
    return row, {}


def question_columns(names: Set[str]) -> Mapping[str, str]:
    """The dataset.columns for what seems to be the question of a pair that has no prompt; empty where nothing does."""
    found = next((name for name in (*OTHER_NAMES["prompt"], *OTHER_NAMES["input"]) if name in names), None)
    return {"prompt": found} if found else {}


def suggested_columns(names: Set[str], method: Method) -> Mapping[str, str]:
    """The dataset.columns with which rows of these columns can be read; empty where they have no likely names."""
    for wanted in MAPPED[method]:
        called = {name: _called(name, names) for name in wanted}
        if all(called.values()):
            return {name: theirs for name, theirs in called.items() if theirs and theirs != name}
    return {}


def _called(name: str, names: Set[str]) -> str | None:
    """What the rows call a column."""
    return next((other for other in (name, *OTHER_NAMES.get(name, ())) if other in names), None)
