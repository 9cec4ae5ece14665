"""Checks that a rendered conversation shows what is in it: contents, calls, tools, and reasoning that is learned.

A content that stands in the text word for word is shown. For all else the conversation is rendered once more with marks
in it. A mark that does not come out stands for something that the template does not write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.spans import REASONING
from lora_trainer.data.template_language import Span, Written

THINK = re.compile(r"(</?think>)")
"""Tags around reasoning that stands in a content."""
FOR_TOOLS = "{name: qwen-2.5}"
FOR_REASONING = "{name: qwen3-thinking}"
FOR_CONTENT = "{name: chatml}"


class Write(Protocol):
    """Renders messages and tools. Raises RowError."""

    def __call__(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> Written: ...


def require_shown(
    conversation: Conversation, whole: Written, *, learned: Mapping[int, Sequence[Span]], write: Write
) -> None:
    """Raise RowError that names what is in the conversation and not in its text.

    `learned` has the parts of the text that are learned, by the index of their message.
    """
    turns = list(enumerate(conversation.turns))
    unseen = {index for index, turn in turns if not _is_seen(turn, whole.text, learned.get(index))}
    if not (unseen or conversation.tools or any(turn.extra and _has_fields(turn) for _, turn in turns)):
        return
    marking = Marking(whole.text)
    messages = [marking.message(turn, learned=index in learned, content=index in unseen) for index, turn in turns]
    tools = [marking.tool(tool) for tool in conversation.tools]
    written = write(messages, tools)
    answers = "".join(written.text[start:end] for start, end in written.generated) or written.text
    for planted in marking.planted:
        text = answers if planted.learned else written.text
        if not all(mark in text for mark in planted.marks):
            raise RowError(
                f"the chat template does not show {planted.what}; set dataset.chatTemplate to one that does, such as"
                f" {planted.template}"
            )


def named(turn: Turn) -> str:
    """A message or the column that it comes from, for people."""
    return turn.place if turn.place.endswith("]") else f"the column {turn.place}"


def _is_seen(turn: Turn, text: str, spans: Sequence[Span] | None) -> bool:
    content = turn.content.strip()
    if spans is not None:
        return any(text.find(content, start, end) >= 0 for start, end in spans)
    # What an earlier answer says beside its calls is left out by templates that ask for the next one in the same way.
    return "tool_calls" in turn.extra or content in text


def _has_fields(turn: Turn) -> bool:
    return "tool_calls" in turn.extra or any(name in turn.extra for name in REASONING)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Marks that stand for one thing."""

    what: str
    template: str
    """A template that shows it, in words."""
    marks: tuple[str, ...]
    learned: bool
    """Whether it must stand in what is learned."""


class Marking:
    """Puts marks into messages and tools, and keeps what they stand for."""

    def __init__(self, text: str) -> None:
        """No mark is part of `text`."""
        self.planted: list[Planted] = []
        self._stem = "mark"
        while self._stem in text:
            self._stem += "x"
        self._marks: list[str] = []
        self._number = 0

    def message(self, turn: Turn, *, learned: bool, content: bool) -> dict[str, Any]:
        """The message with marks in its calls, in the reasoning that is learned, and where `content` in its content."""
        message = turn.message()
        if calls := turn.extra.get("tool_calls"):
            message["tool_calls"] = [self._call(call) for call in calls]
            self._stands_for(f"the tool calls of {named(turn)}", FOR_TOOLS, learned=learned)
        if learned and (fields := [name for name in REASONING if isinstance(message.get(name), str)]):
            # Some rows have the same reasoning under two names, and templates read one.
            marked = {text: self._around(text) for text in dict.fromkeys(message[name] for name in fields)}
            message |= {name: marked[message[name]] for name in fields}
            self._stands_for(f"{' and '.join(fields)} of {named(turn)}", FOR_REASONING, learned=True)
        if content:
            *reasoning, said = THINK.split(turn.content) if turn.role == "assistant" else [turn.content]
            if learned:
                reasoning = [part if THINK.match(part) else self._around(part) for part in reasoning]
                self._stands_for(f"the reasoning in the content of {named(turn)}", FOR_REASONING, learned=True)
            message["content"] = "".join([*reasoning, self._around(said)])
            self._stands_for(f"the content of {named(turn)}", FOR_CONTENT, learned=learned)
        return message

    def tool(self, tool: Mapping[str, Any]) -> Mapping[str, Any]:
        """The tool with a mark as its name."""
        function = tool.get("function")
        inner = function if isinstance(function, Mapping) else tool
        if "name" not in inner:
            return tool
        marked = {**inner, "name": self._word()}
        self._stands_for(f"the tool {inner['name']} of the column tools", FOR_TOOLS, learned=False)
        return marked if inner is tool else {**tool, "function": marked}

    def _call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call.get("function", call)
        arguments = function["arguments"]
        if arguments:
            arguments = {**arguments, self._word(): self._word()}
        marked = {**function, "name": self._word(), "arguments": arguments}
        return {**call, "function": marked} if "function" in call else marked

    def _around(self, text: str) -> str:
        return f"{self._word()}{text}{self._word()}" if text.strip() else text

    def _word(self) -> str:
        self._number += 1
        word = f"{self._stem}{self._number}e"
        self._marks.append(word)
        return word

    def _stands_for(self, what: str, template: str, *, learned: bool) -> None:
        if self._marks:
            self.planted.append(Planted(what=what, template=template, marks=tuple(self._marks), learned=learned))
            self._marks = []
