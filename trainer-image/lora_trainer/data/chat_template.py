"""Renders conversations with a Jinja chat template, and finds the answers in the result. Knows text, not tokens.

Follows what transformers does (its own code would import torch): the same environment, filters and globals. Two things
differ. The day is fixed, because templates that write today's date would give the same dataset another digest
tomorrow. And `{% generation %}` blocks are passed through, as the answers are found by comparing renderings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.formats import Conversation, RowError, Turn
from lora_trainer.errors import TrainerError, first_sentence

TEMPLATE_DAY = date(2024, 7, 26)
"""The day that Llama's own templates fall back to."""
PROBE = Conversation(
    turns=(
        Turn(role="user", content="a question", extra={}),
        Turn(role="assistant", content="an answer", extra={}),
    )
)
MARK = "\ue000"
"""A character of no meaning that stands for a place in a content."""
MARKUP = re.compile(
    r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>|<(?:start|end)_of_turn>|</?s>|<[be]os>"
)
"""What is meant as a special token wherever a template writes it; DeepSeek's bars are full-width, Gemma 4 has one."""

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text."""

    text: str
    answers: tuple[Span, ...]
    """[start, end) of each answer that counts in the loss, its end marker included; of all the text for everything."""
    prompt_end: int
    """Where the last answer begins."""


class ChatTemplate:
    """A compiled template. Raises ChatTemplateInvalid where it does not compile or cannot render a plain chat."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are the variables that templates use: bos_token, eos_token, ..."""
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
            probe = self.render(PROBE, train_on=TrainOn.ANSWERS)
            start, end = probe.answers[0]
            if PROBE.turns[-1].content not in probe.text[start:end]:
                raise RowError("it does not show the answer")
        except jinja2.TemplateSyntaxError as error:
            raise _invalid(
                f"The chat template does not compile: {first_sentence(error.message or '')} in line {error.lineno}"
            ) from None
        except RowError as error:
            raise _invalid(f"The chat template cannot render a question and an answer: {error}") from None
        self.markup = frozenset(MARKUP.findall(probe.text))
        """Special tokens that the template writes."""

    def render(self, conversation: Conversation, *, train_on: TrainOn) -> Rendered:
        """The conversation as text, with the place of its answers. Raises RowError."""
        messages = [turn.message() for turn in conversation.turns]
        text = self._text(messages, conversation.tools)
        answers = [index for index, turn in enumerate(conversation.turns) if turn.learned]
        if train_on != TrainOn.ANSWERS:
            answers = answers[-1:]
        spans = tuple(self._answer(text, conversation, messages, index) for index in answers)
        trained = ((0, len(text)),) if train_on == TrainOn.EVERYTHING else spans
        return Rendered(text=text, answers=trained, prompt_end=spans[-1][0])

    def _answer(self, text: str, conversation: Conversation, messages: Sequence[dict], index: int) -> Span:
        """The position of message `index` in the text, with what the template writes to end it.

        The message begins where its prompt ends. Where that prompt is not a prefix of the text (it opens a block of
        reasoning that this answer does not have, or there is no prompt), the content itself is located.
        """
        content, tools = conversation.turns[index].content.rstrip(), conversation.tools
        prompt = self._text(messages[:index], tools, ask=True) if index else ""
        start = len(prompt)
        if not index or not text.startswith(prompt):
            start = len(self._around(messages, tools, index, MARK)[0])
        until = self._text(messages[: index + 1], tools) if index + 1 < len(messages) else text
        end = len(until)
        if not text.startswith(until):
            # Templates that shorten earlier answers (their reasoning) once more messages follow.
            shown, _ = self._around(messages, tools, index, content + MARK)
            _, ending = self._around(messages[: index + 1], tools, index, content + MARK)
            end = len(shown) + len(ending.rstrip())
        return start, start + len(text[start:end].rstrip())

    def _around(self, messages: Sequence[dict], tools: Sequence[Any], index: int, content: str) -> tuple[str, str]:
        """What the template writes before and after MARK in the content of message `index`."""
        marked = [*messages[:index], {**messages[index], "content": content}, *messages[index + 1 :]]
        before, found, after = self._text(marked, tools).partition(MARK)
        if not found:
            raise RowError(f"the chat template does not show message {index + 1} (assistant)")
        return before, after

    def _text(self, messages: Sequence[dict], tools: Sequence[Any], *, ask: bool = False) -> str:
        try:
            return self._template.render(
                messages=messages, tools=list(tools) or None, add_generation_prompt=ask, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise RowError(f"the chat template refuses it ({error})") from None


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own interface

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = TEMPLATE_DAY.strftime
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _invalid(message: str) -> TrainerError:
    return TrainerError(
        ExitCode.ChatTemplateInvalid,
        f"{message}.",
        "Correct dataset.chatTemplate, or remove it if the model has its own template.",
    )
