"""Where answers stand in a rendered conversation, and what ends them. Knows text, not tokens. Pure.

A template with `{% generation %}` blocks says it itself. For the others renderings are compared. An answer begins where
the prompt that asks for it ends. It ends where the conversation up to it ends. No mark is planted in a text. An answer
that the conversation up to it writes otherwise than the whole one cannot be learned from the whole one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Turn
from lora_trainer.data.template_language import Span, Written

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message whose reasoning templates write before the content."""


class WrittenOtherwise(RowError):
    """The template writes an answer otherwise once more messages follow: it can be learned only as the last one."""


class Write(Protocol):
    """Renders messages, with the beginning of an answer where `ask`. Raises RowError."""

    def __call__(self, messages: Sequence[Mapping[str, Any]], *, ask: bool = False) -> Written: ...


@dataclass(frozen=True, kw_only=True)
class Endings:
    """What may end an answer."""

    token: re.Pattern[str]
    """Any special token."""
    usual: tuple[str, ...] = ()
    """Tokens that end an answer of this template."""

    def begin(self, text: str) -> int:
        """Where the special tokens begin that the text ends with, and the white space between them."""
        start = len(text)
        for match in reversed(list(self.token.finditer(text))):
            if text[match.end() : start].strip():
                break
            start = match.start()
        return start

    def after(self, text: str, position: int) -> int | None:
        """Where the special token ends that follows `position`, but for white space; None where none does."""
        token = self.token.match(text, len(text) - len(text[position:].lstrip()))
        return token.end() if token else None


@dataclass(frozen=True, kw_only=True)
class AnswerFinder:
    """Finds answers in one rendered conversation."""

    turns: Sequence[Turn]
    messages: Sequence[Mapping[str, Any]]
    """The same as templates read them."""
    whole: Written
    """All of the conversation."""
    write: Write
    endings: Endings

    def spans(self, wanted: Sequence[int]) -> list[tuple[Span, ...]]:
        """The parts of the text that each of these answers consists of. Raises RowError, WrittenOtherwise for an answer
        that has another form as the last message."""
        return self._generated(wanted) or [(self._compared(index),) for index in wanted]

    def _generated(self, wanted: Sequence[int]) -> list[tuple[Span, ...]] | None:
        """What the template's own blocks say; None where they cannot be told apart."""
        if not self.whole.generated:
            return None
        answers = [index for index, turn in enumerate(self.turns) if turn.role == "assistant" and index >= wanted[0]]
        blocks = [block for block in self.whole.generated if self.whole.text[slice(*block)].strip()]
        prompts = [self._asked(index) for index in answers]
        if not all(self.whole.text.startswith(prompt) for prompt in prompts):
            return None
        starts = [len(prompt) for prompt in prompts]
        stops = [*starts[1:], len(self.whole.text)]
        found = [
            self._joined([(max(start, first), end) for first, end in blocks if start < end <= stop])
            for index, start, stop in zip(answers, starts, stops, strict=True)
            if index in wanted
        ]
        if not all(found):
            return None
        for index in wanted:
            self._end(index, self._given(index))
        return found

    def _joined(self, blocks: Sequence[Span]) -> tuple[Span, ...]:
        """The blocks of one answer, as one where only white space is between them."""
        joined: list[Span] = []
        for start, end in (self._ended(block) for block in blocks):
            if joined and not self.whole.text[joined[-1][1] : start].strip():
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        return tuple(joined)

    def _ended(self, block: Span) -> Span:
        """The block with the end token behind it, which some templates leave outside."""
        (start, _), text = block, self.whole.text[slice(*block)].rstrip()
        end = start + len(text)
        is_ended = self.endings.begin(text) < len(text)
        return start, end if is_ended else self.endings.after(self.whole.text, end) or end

    def _compared(self, index: int) -> Span:
        given = self._given(index)
        return self._start(index, given), self._end(index, given)

    def _given(self, index: int) -> str:
        """The conversation up to an answer, as the model gives it: nothing follows yet."""
        last = index + 1 == len(self.messages)
        return (self.whole if last else self.write(self.messages[: index + 1])).text.rstrip()

    def _start(self, index: int, given: str) -> int:
        asked = self._asked(index)
        if asked and given.startswith(asked):
            return len(asked)
        # The prompt opens a block of reasoning that this answer does not have, or there is no prompt. The answer begins
        # where it differs from another answer or from the prompt, whichever is first.
        message = self.messages[index]
        said = [text for name in ("content", *REASONING) if isinstance(text := message.get(name), str)]
        other = next(letter for letter in "abcde" if not any(text.lstrip().startswith(letter) for text in said))
        another = self.write([*self.messages[:index], {"role": "assistant", "content": other}]).text
        start = _agreeing(given, another)
        agreed = self._whole_tokens(given, _agreeing(given, asked))
        # Renderings that part before the last question part elsewhere than at the answer.
        question = self.turns[index - 1].content.strip() if index else ""
        return min(start, agreed) if index and given.rfind(question, 0, agreed) >= 0 else start

    def _end(self, index: int, given: str) -> int:
        text = self.whole.text
        if text.startswith(given):
            return len(given)
        # Some templates end an answer otherwise once more messages follow.
        cut = self._whole_tokens(given, _agreeing(text, given))
        if cut >= self.endings.begin(given):
            same = given[:cut].rstrip()
            if same.endswith(self.endings.usual):
                return len(same)
            if ending := self.endings.after(text, cut):
                return ending
        raise WrittenOtherwise(
            f"the chat template writes {self.turns[index].place} otherwise once more messages follow, a form that the"
            " model is never asked for; set training.sft.trainOn to Answers or LastAnswer, or dataset.chatTemplate to"
            " one that keeps earlier answers as they were"
        )

    def _whole_tokens(self, text: str, position: int) -> int:
        """The position, or where the special token begins that it is inside of."""
        starts = (token.start() for token in self.endings.token.finditer(text) if token.end() > position)
        return min(next(starts, position), position)

    def _asked(self, index: int) -> str:
        return self.write(self.messages[:index], ask=True).text if index else ""


def _agreeing(one: str, other: str) -> int:
    """How many leading characters are the same."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
