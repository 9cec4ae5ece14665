"""Renders conversations with a Jinja chat template, and finds the answers in the result. Knows text, not tokens.

Refuses a row of which the text would not show what is to be trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jinja2

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RESERVED_KWARGS, ChatTemplateValue
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.message_form import MessageForm
from lora_trainer.data.shown import named, require_shown
from lora_trainer.data.spans import AnswerFinder, Endings
from lora_trainer.data.template_language import Span, Template, Written
from lora_trainer.errors import TrainerError, first_sentence

PROBE = Conversation(
    turns=(
        Turn(role="user", content="a question", extra={}, place="messages[0]"),
        Turn(role="assistant", content="an answer", extra={}, place="messages[1]"),
    )
)
NO_KWARGS: Mapping[str, ChatTemplateValue] = MappingProxyType({})
PROBE_CALL = (
    {"role": "user", "content": "a question"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}],
    },
)
MARKUP = re.compile(
    r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>|<(?:start|end)_of_turn>|<end_of_utterance>|</?s>|<[be]os>"
)
"""What is meant as a special token wherever a template writes it; DeepSeek's bars are full-width, Gemma 4 has one."""


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

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, str], kwargs: Mapping[str, ChatTemplateValue] = NO_KWARGS
    ) -> None:
        """`special_tokens` are the variables that templates use: bos_token, eos_token, ...; `kwargs` are the user's."""
        self._variables = {**kwargs, **special_tokens}
        written = (MARKUP.pattern, *map(re.escape, special_tokens.values()))
        self._endings = Endings(token=re.compile("|".join(written)))
        self._form = MessageForm()
        self.markup = frozenset[str]()
        """Special tokens that the template writes."""
        try:
            self._template = Template(source)
            probe = self._probed()
        except jinja2.TemplateSyntaxError as error:
            raise _invalid(
                f"The chat template does not compile: {first_sentence(error.message or '')} in line {error.lineno}"
            ) from None
        except RowError as error:
            raise _invalid(f"The chat template cannot render a question and an answer: {error}") from None
        self.markup = frozenset(self._endings.token.findall(probe.text))
        self._endings = self._usual_endings(probe)
        self._form = self._form_with_calls()

    def reads(self, name: str) -> bool:
        """Whether the template may look up a variable of this name."""
        return name in self._template.variables

    @property
    def settings(self) -> frozenset[str]:
        """Variables that the template reads beside those that every row gives it."""
        return self._template.settings - RESERVED_KWARGS

    def render(self, conversation: Conversation, *, train_on: TrainOn) -> Rendered:
        """The conversation as text, with the place of its answers. Raises RowError."""
        turns, tools = conversation.turns, conversation.tools
        for turn in turns:
            self.refuse_markup(turn)

        def write(messages: Sequence[Mapping[str, Any]], *, ask: bool = False) -> Written:
            return self._write(messages, tools, ask=ask)

        messages = [turn.message() for turn in turns]
        whole = write(messages)
        answers = [index for index, turn in enumerate(turns) if turn.learned]
        wanted = answers if train_on == TrainOn.ANSWERS else answers[-1:]
        finder = AnswerFinder(turns=turns, messages=messages, whole=whole, write=write, endings=self._endings)
        spans = finder.spans(wanted)
        if train_on == TrainOn.EVERYTHING:
            trained: tuple[Span, ...] = ((0, len(whole.text)),)
            learned = dict.fromkeys(answers, trained)
        else:
            trained = tuple(span for answer in spans for span in answer)
            learned = dict(zip(wanted, spans, strict=True))
        require_shown(conversation, whole, learned=learned, write=self._write)
        return Rendered(text=whole.text, answers=trained, prompt_end=spans[-1][0][0])

    def refuse_markup(self, turn: Turn) -> None:
        """Raise RowError where a message holds a special token that the template writes itself."""
        for text in (turn.content, *turn.extra.values()):
            for token in self.markup if isinstance(text, str) else ():
                if token in text:
                    raise RowError(
                        f"{named(turn)} holds {token}, which the chat template writes itself; use format Text, or take"
                        " it out"
                    )

    def _probed(self) -> Rendered:
        """A plain chat as the template writes it, in the form in which it reads contents. Raises RowError."""
        try:
            return self.render(PROBE, train_on=TrainOn.ANSWERS)
        except RowError as error:
            self._form = MessageForm(content_as_parts=True)
            try:
                return self.render(PROBE, train_on=TrainOn.ANSWERS)
            except RowError:
                raise error from None

    def _form_with_calls(self) -> MessageForm:
        """The form of messages, with arguments as text where the template can write calls only so."""
        with_text = replace(self._form, arguments_as_text=True)
        return with_text if not self._writes_calls(self._form) and self._writes_calls(with_text) else self._form

    def _writes_calls(self, form: MessageForm) -> bool:
        try:
            self._write(PROBE_CALL, (), form=form)
        except RowError:
            return False
        return True

    def _usual_endings(self, probe: Rendered) -> Endings:
        """What ends an answer as the last message, and before another one."""
        (_, end), text = probe.answers[-1], probe.text
        usual = set(self._endings.token.findall(text[self._endings.begin(text[:end]) : end]))
        return Endings(token=self._endings.token, usual=tuple(usual))

    def _write(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any],
        *,
        ask: bool = False,
        form: MessageForm | None = None,
    ) -> Written:
        read = [(form or self._form).of(message) for message in messages]
        try:
            return self._template.write(
                messages=read, tools=list(tools) or None, add_generation_prompt=ask, **self._variables
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise RowError(f"the chat template refuses it ({error})") from None


def _invalid(message: str) -> TrainerError:
    return TrainerError(
        ExitCode.ChatTemplateInvalid,
        f"{message}.",
        "Correct dataset.chatTemplate, or remove it if the model has its own template.",
    )
