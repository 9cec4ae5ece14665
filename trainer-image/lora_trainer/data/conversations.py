"""Messages of a row as a conversation: roles, contents, calls of tools, and which answers are learned. Pure.

Every message keeps its place in the user's row, which is what errors name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lora_trainer.data.columns import Record, RowError, given, kind_of, shown_names, text_of
from lora_trainer.data.tool_calls import ToolError, tool_calls_of, tools_of

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
LEARNED = ("weight", "train", "training", "loss")
"""Keys that say whether an answer is learned: of OpenAI and Mistral, of axolotl (two), of ms-swift."""
NOT_READ = {
    "function_call": "write it as tool_calls",
    "train_detail": "mark the whole message with train",
    "training_detail": "mark the whole message with train",
}
"""Keys that other tools read and prepare does not, with what to do."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    extra: Mapping[str, Any]
    """Other fields that the chat template may use: tool_calls, name, reasoning_content, ..."""
    trained: bool = True
    """Whether an answer is learned, or only shown."""
    place: str = field(default="", compare=False)
    """Where it stands in the user's row, for messages: messages[1]."""

    def message(self) -> dict[str, Any]:
        """The form that chat templates read."""
        return {**self.extra, "role": self.role, "content": self.content}

    @property
    def learned(self) -> bool:
        """Whether it is an answer that is learned."""
        return self.role == "assistant" and self.trained


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A chat: needs a chat template."""

    turns: tuple[Turn, ...]
    tools: tuple[Any, ...] = ()

    @property
    def system(self) -> str | None:
        """The system message that it begins with."""
        first = self.turns[0]
        return first.content if first.role == "system" else None

    def until_last_answer(self) -> Conversation:
        """The chat up to the last answer that is learned; nothing is learned from what follows."""
        last = max((index for index, turn in enumerate(self.turns) if turn.learned), default=None)
        if last is None or last == len(self.turns) - 1:
            return self
        return replace(self, turns=self.turns[: last + 1])

    def until_each_answer(self) -> Iterator[Conversation]:
        """The chat up to each answer that is learned."""
        for index, turn in enumerate(self.turns):
            if turn.learned:
                yield replace(self, turns=self.turns[: index + 1])


def conversation(turns: Sequence[Turn], record: Record, column: str) -> Conversation:
    """The turns as a chat, with the record's tools. Raises RowError that names the column of the messages."""
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(f"{column} has no assistant message to learn from")
    if given(record, "functions") is not None:
        raise RowError("the column functions is not read: write it as tools")
    try:
        tools = tools_of(given(record, "tools") or ())
    except ToolError as error:
        raise RowError(f"the column tools {error}") from None
    return Conversation(turns=tuple(turns), tools=tools)


def turns_of(messages: Any, column: str) -> tuple[Turn, ...]:
    """The messages in a column; one message stands for a list of it. Raises RowError that names the message."""
    listed = [messages] if isinstance(messages, Mapping) else messages
    if not isinstance(listed, list):
        raise RowError(f"{column} is {kind_of(messages)} instead of a list of messages")
    return tuple(_turn(message, f"{column}[{index}]") for index, message in enumerate(listed))


def system_turns(record: Record, names: Mapping[str, str]) -> tuple[Turn, ...]:
    """The column system as the first turn; none where it is blank or missing. Raises RowError."""
    system = given(record, "system")
    if system is None:
        return ()
    place = names.get("system", "system")
    content = _joined(system, place) if isinstance(system, list) else text_of(record, "system", names)
    return (Turn(role="system", content=content, extra={}, place=place),)


def history_turns(record: Record, names: Mapping[str, str]) -> tuple[Turn, ...]:
    """LLaMA-Factory's column history, of [question, answer] each, as turns. Raises RowError."""
    history, column = given(record, "history"), names.get("history", "history")
    if history is None:
        return ()
    if not isinstance(history, list):
        raise RowError(f"the column {column} is {kind_of(history)} instead of a list of [question, answer]")
    turns = []
    for index, exchange in enumerate(history):
        place = f"{column}[{index}]"
        if not (isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(said, str) for said in exchange)):
            raise RowError(f"{place} is not [question, answer], two strings")
        question, answer = exchange
        turns += [
            Turn(role="user", content=question, extra={}, place=place),
            Turn(role="assistant", content=answer, extra={}, place=place),
        ]
    return tuple(turns)


def role_of(named: Any) -> Any:
    """The role that a name in a row means: itself, where it is no other tool's name for one."""
    return ROLE_ALIASES.get(named, named) if isinstance(named, str) else named


def is_learned(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is learned, as far as its own keys say."""
    return all(answer.get(key) != 0 for key in LEARNED if key in answer)


def refuse_history(record: Record, names: Mapping[str, str], column: str) -> None:
    """Raise RowError where a row has a history beside the messages of a column."""
    if given(record, "history") is not None:
        raise RowError(
            f"the column {names.get('history', 'history')} stands beside {column}: put its turns into {column}"
        )


def _turn(message: Any, place: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(f"{place} is {kind_of(message)} instead of an object with role and content")
    role_key, content_key = ("from", "value") if message.get("from") is not None else ("role", "content")
    if role_key not in message:
        raise RowError(f"{place} has no role (found {shown_names(message)})")
    named = message[role_key]
    role = role_of(named)
    # A column of messages in a parquet file holds every key in every message, most of them null.
    extra = {key: value for key, value in message.items() if key not in (role_key, content_key) and value is not None}
    if named == CALL_ROLE:
        role = "assistant"
        extra["tool_calls"] = message.get(content_key)
    if role not in ROLES:
        raise RowError(f"{place} has the unknown role {named!r}; known roles are {', '.join(ROLES)}")
    marks = _taken_out(extra, place) if extra else {}
    if role == "assistant":
        _check_marks(marks, place)
    return Turn(
        role=role,
        content="" if named == CALL_ROLE else _content(message, content_key, place, optional="tool_calls" in extra),
        extra=extra,
        trained=role != "assistant" or is_learned(marks),
        place=place,
    )


def _taken_out(extra: dict[str, Any], place: str) -> dict[str, Any]:
    """The marks in a message's other fields, which keep what templates read. Raises RowError for what is not read."""
    for key in NOT_READ.keys() & extra.keys():
        if extra[key]:
            raise RowError(f"{place}.{key} is not read: {NOT_READ[key]}")
    if "tool_calls" in extra and (calls := _calls(extra.pop("tool_calls"), place)):
        extra["tool_calls"] = calls
    return {key: extra.pop(key) for key in LEARNED if key in extra}


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if isinstance(calls, str) and not calls.strip():
        return []
    try:
        return tool_calls_of(calls)
    except ToolError as error:
        raise RowError(f"{place}.tool_calls {error}") from None


def _check_marks(marks: Mapping[str, Any], place: str) -> None:
    for key, mark in marks.items():
        if mark not in (0, 1):
            raise RowError(f"{place}.{key} is neither 0 nor 1, neither false nor true")


def _content(message: Mapping[str, Any], key: str, place: str, *, optional: bool) -> str:
    content = message.get(key)
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if isinstance(content, list):
        return _joined(content, place)
    if key not in message:
        raise RowError(f"{place} has no {key} (found {shown_names(message)})")
    raise RowError(f"{place} has {kind_of(content)} as content instead of a string")


def _joined(parts: Sequence[Any], place: str) -> str:
    """The text of a content in parts: {type: text, text}, or {text} as Bedrock writes it."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping):
            raise RowError(f"{place} has a part that is {kind_of(part)} instead of an object with text")
        kind = part.get("type")
        if kind not in (None, "text"):
            raise RowError(f"{place} has a part of type {kind}; only text can be trained on")
        if kind is None and part.get("text") is None:
            raise RowError(f"{place} has a part of {shown_names(part)}; only text can be trained on")
        text = part.get("text")
        if not isinstance(text, str | None):
            raise RowError(f"{place} has {kind_of(text)} as text of a part instead of a string")
        texts.append(text or "")
    return "".join(texts)
