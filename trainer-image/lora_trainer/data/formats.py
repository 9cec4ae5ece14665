"""Row formats: detects the format of a dataset, and has one normaliser per format. Pure; reads no file.

A normaliser raises RowError with the reason why a row cannot be used; its caller knows file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.tool_calls import ToolError, tool_calls_of, tools_of
from lora_trainer.errors import TrainerError

ROLES = ("system", "user", "assistant", "tool")
ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
CALL_ROLE = "function_call"
"""ShareGPT's turn of the assistant whose value is a call of a tool."""
SHOWN_COLUMNS = 12


class RowError(Exception):
    """Why a row cannot be used: the end of a sentence that begins with its file and line."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    extra: Mapping[str, Any]
    """Other fields that the chat template may use: tool_calls, name, reasoning_content, ..."""
    place: str = field(default="", compare=False)
    """Where it stands in the user's row, for messages: messages[1]."""

    def message(self) -> dict[str, Any]:
        """The form that chat templates read."""
        return {**self.extra, "role": self.role, "content": self.content}


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat: needs a chat template."""

    turns: tuple[Turn, ...]
    tools: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One question and its answer: a chat where there is a chat template, else plain text after `plain_prompt`."""

    system: str | None
    prompt: str
    completion: str
    plain_prompt: str
    as_chat: bool = True
    """Whether a chat template may be put around it."""

    def conversation(self) -> Conversation:
        """The same as a chat."""
        system = (_turn("system", self.system, "system"),) if self.system else ()
        return Conversation(
            turns=(*system, _turn("user", self.prompt, "prompt"), _turn("assistant", self.completion, "completion"))
        )


@dataclass(frozen=True, kw_only=True)
class Text:
    """Plain text: every token counts in the loss."""

    text: str


Row = Conversation | Completion | Text
Record = Mapping[str, Any]


WANTED = {
    Method.SFT: "messages, or conversations, or instruction and output, or prompt and completion, or text",
    Method.DPO: "chosen and rejected",
    Method.GRPO: "prompt",
}
"""Columns that a method learns from, in words."""
MAPPED = {
    Method.SFT: "{prompt: question, completion: answer}",
    Method.DPO: "{chosen: better, rejected: worse}",
    Method.GRPO: "{prompt: question}",
}
"""An example of mapped columns."""


def detect_format(
    records: Sequence[Record], columns: Mapping[str, str] | None, method: Method = Method.SFT
) -> RowFormat:
    """The format whose columns the first fitting record has. Raises DatasetInvalid that names what was found."""
    for record in records:
        if found := _format_of(set(rename(record, columns)), method):
            return found
    names = sorted(records[0])[:SHOWN_COLUMNS]
    raise TrainerError(
        ExitCode.DatasetInvalid,
        f"The rows' columns fit no format of method {method}: found {', '.join(names) or 'none'}; expected"
        f" {WANTED[method]}.",
        f"Rename the columns, map them in dataset.columns, for example {MAPPED[method]}, or set training.method to the"
        " method that the rows are for.",
    )


def _format_of(names: Set[str], method: Method) -> RowFormat | None:
    if method is Method.DPO:
        return RowFormat.PREFERENCE if {"chosen", "rejected"} <= names else None
    if method is Method.GRPO:
        return RowFormat.PROMPT if "prompt" in names else None
    if "messages" in names:
        return RowFormat.MESSAGES
    if "conversations" in names:
        return RowFormat.SHAREGPT
    if {"instruction", "output"} <= names:
        return RowFormat.ALPACA
    if {"prompt", "completion"} <= names:
        return RowFormat.PROMPT_COMPLETION
    return RowFormat.TEXT if "text" in names else None


def rename(record: Record, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """The record with the user's columns under the names that the format expects."""
    if not columns:
        return dict(record)
    theirs = {name: expected for expected, name in columns.items()}
    # A mapped column wins over one that happens to have the expected name already.
    kept = {name: value for name, value in record.items() if name not in theirs and name not in columns}
    return kept | {expected: record[name] for name, expected in theirs.items() if name in record}


def normalise(record: Record, row_format: RowFormat, columns: Mapping[str, str] | None) -> Row:
    """The record as a frozen row. Raises RowError."""
    return NORMALISERS[row_format](rename(record, columns), columns or {})


def _messages(record: Record, columns: Mapping[str, str]) -> Row:
    return _messages_of(record, "messages", columns)


def _sharegpt(record: Record, columns: Mapping[str, str]) -> Row:
    return _messages_of(record, "conversations", columns)


def _alpaca(record: Record, columns: Mapping[str, str]) -> Row:
    instruction, output = (text_of(record, name, columns) for name in ("instruction", "output"))
    question = optional_text(record, "input", columns)
    heading = "### Instruction:\n" + instruction + (f"\n\n### Input:\n{question}" if question else "")
    return Completion(
        system=optional_text(record, "system", columns),
        prompt=f"{instruction}\n\n{question}" if question else instruction,
        completion=output,
        plain_prompt=f"{heading}\n\n### Response:\n",
    )


def _prompt_completion(record: Record, columns: Mapping[str, str]) -> Row:
    prompt, completion = (value_of(record, name, columns) for name in ("prompt", "completion"))
    if isinstance(prompt, list) and isinstance(completion, list):
        return conversation([*prompt, *completion], record, "prompt")
    prompt, completion = (text_of(record, name, columns) for name in ("prompt", "completion"))
    system = optional_text(record, "system", columns)
    return Completion(system=system, prompt=prompt, completion=completion, plain_prompt=prompt)


def _plain_text(record: Record, columns: Mapping[str, str]) -> Row:
    return Text(text=text_of(record, "text", columns))


NORMALISERS: Mapping[RowFormat, Callable[[Record, Mapping[str, str]], Row]] = {
    RowFormat.MESSAGES: _messages,
    RowFormat.SHAREGPT: _sharegpt,
    RowFormat.ALPACA: _alpaca,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.TEXT: _plain_text,
}


def _messages_of(record: Record, name: str, columns: Mapping[str, str]) -> Conversation:
    messages = value_of(record, name, columns)
    if not isinstance(messages, list):
        raise RowError(f"{_column(name, columns)} is {kind_of(messages)} instead of a list of messages")
    system = optional_text(record, "system", columns)
    first = [{"role": "system", "content": system}] if system else []
    return conversation([*first, *messages], record, _column(name, columns))


def conversation(messages: list[Any], record: Record, name: str) -> Conversation:
    """The messages as a chat, with the record's tools. Raises RowError that names the message."""
    turns = tuple(_message(message, f"{name}[{index}]") for index, message in enumerate(messages))
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(f"{name} has no assistant message to learn from")
    try:
        tools = tools_of(record.get("tools") or ())
    except ToolError as error:
        raise RowError(f"the column tools {error}") from None
    return Conversation(turns=turns, tools=tools)


def _message(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(f"{where} is {kind_of(message)} instead of an object with role and content")
    role_key, content_key = ("from", "value") if "from" in message else ("role", "content")
    if role_key not in message:
        raise RowError(f"{where} has no role")
    role, content = message[role_key], message.get(content_key)
    if role == CALL_ROLE:
        role, content, message = "assistant", None, {**message, "tool_calls": content}
    role = ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RowError(f"{where} has the unknown role {role!r}; known roles are {', '.join(ROLES)}")
    # A column of messages in a parquet file holds every key in every message, most of them null.
    extra = {key: value for key, value in message.items() if key not in (role_key, content_key) and value is not None}
    if "tool_calls" in extra:
        try:
            extra["tool_calls"] = tool_calls_of(extra["tool_calls"])
        except ToolError as error:
            raise RowError(f"{where}.tool_calls {error}") from None
    said = _content(content, where, optional=bool(extra.get("tool_calls")))
    return Turn(role=role, content=said, extra=extra, place=where)


def _content(content: Any, where: str, *, optional: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise RowError(f"{where} has {kind_of(content)} as content instead of a string")


def _turn(role: str, content: str, place: str) -> Turn:
    return Turn(role=role, content=content, extra={}, place=place)


def value_of(record: Record, name: str, columns: Mapping[str, str]) -> Any:
    """The value of a column. Raises RowError where it is missing or null."""
    if record.get(name) is None:
        state = "is null" if name in record else f"is missing (found {', '.join(sorted(record)[:SHOWN_COLUMNS])})"
        raise RowError(f"the column {_column(name, columns)} {state}")
    return record[name]


def text_of(record: Record, name: str, columns: Mapping[str, str]) -> str:
    """The text in a column. Raises RowError where it is none."""
    value = value_of(record, name, columns)
    if not isinstance(value, str):
        raise RowError(f"the column {_column(name, columns)} is {kind_of(value)} instead of a string")
    return value


def optional_text(record: Record, name: str, columns: Mapping[str, str]) -> str | None:
    """The text in a column, None where there is none. Raises RowError for anything but a text."""
    return None if record.get(name) is None else text_of(record, name, columns) or None


def _column(name: str, columns: Mapping[str, str]) -> str:
    return columns.get(name, name)


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
