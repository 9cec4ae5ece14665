"""Rows of preferences: two answers to one prompt, of which one was chosen. Normalises and tokenises them; no file.

TRL's formats: `chosen` and `rejected` as messages or as strings, with their `prompt` in a separate column or as the
beginning that both share. Each answer is rendered with the prompt by the same renderer as rows of supervised
fine-tuning, and cut where its end token is.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Self

from lora_trainer.contract.spec.training import Method, TrainOn
from lora_trainer.data.columns import Record, RowError, given, optional_text, text_of, value_of
from lora_trainer.data.conversations import (
    Conversation,
    Turn,
    conversation,
    history_turns,
    refuse_history,
    system_turns,
    turns_of,
)
from lora_trainer.data.formats import Completion, answered, instruction_of, recognised
from lora_trainer.data.shapes import question_columns
from lora_trainer.data.tokens import Draft, RowTokenizer, TokenRow
from lora_trainer.prepared import answer_end

SIDES = ("chosen", "rejected")
SEPARATOR = b"\xff" * 4
"""Between sequences of token ids; no id has these bytes."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two answers to one prompt: chats or completions of the same kind."""

    chosen: Conversation | Completion
    rejected: Conversation | Completion


@dataclass(frozen=True, kw_only=True)
class PairDraft:
    """Both answers as text, each with the prompt before it."""

    chosen: Draft
    rejected: Draft

    @property
    def system(self) -> str | None:
        """The system message that both begin with."""
        return self.chosen.system


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One pair as it is trained on."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt: str
    """What is asked, for people."""
    chosen: str
    """The better answer, for people."""
    rejected: str
    """The worse answer, for people."""

    @property
    def length(self) -> int:
        """Tokens of the longer sequence."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def tokens(self) -> int:
        """Tokens of both sequences; the prompt is read twice."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def trained_tokens(self) -> int:
        """Tokens of both answers; nothing where they are equal, as no preference is in such a pair."""
        if self.chosen_ids == self.rejected_ids or not (self.chosen_ids and self.rejected_ids):
            return 0
        return len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def teaches(self) -> bool:
        """Whether there is a preference in it."""
        return self.trained_tokens > 0

    def contents(self) -> bytes:
        """What is trained on, as bytes."""
        sequences = (self.prompt_ids, self.chosen_ids, self.rejected_ids)
        return SEPARATOR.join(array("i", ids).tobytes() for ids in sequences)

    def truncated(self, limit: int) -> Self:
        """The pair with the end of its answers cut where prompt and answer are longer than `limit` tokens."""
        left = max(0, limit - len(self.prompt_ids))
        return replace(
            self,
            prompt_ids=self.prompt_ids[:limit],
            chosen_ids=self.chosen_ids[:left],
            rejected_ids=self.rejected_ids[:left],
        )


def normalise_pair(record: Record, columns: Mapping[str, str] | None) -> Preference:
    """The record as a frozen pair. Raises RowError."""
    row, names = recognised(record, columns, Method.DPO)
    answers = [value_of(row, name, names) for name in SIDES]
    if all(isinstance(answer, list | Mapping) for answer in answers):
        sides = [turns_of(answer, names.get(name, name)) for name, answer in zip(SIDES, answers, strict=True)]
        return _chats(row, sides, names)
    texts = [text_of(row, name, names) for name in SIDES]
    if column := _column_of_messages(row):
        sides = [(_said(text, names.get(name, name)),) for name, text in zip(SIDES, texts, strict=True)]
        return _continued(row, _messages_before(row, column, names), sides, names)
    if (question := _question(row, names)) is None:
        return _whole_texts(row, texts, names)
    prompt, plain_prompt = question
    asked = "instruction" if row.get("prompt") is None else "prompt"
    chosen, rejected = (
        answered(row, names, prompt=prompt, plain_prompt=plain_prompt, completion=text, columns=(asked, name))
        for name, text in zip(SIDES, texts, strict=True)
    )
    return Preference(chosen=chosen, rejected=rejected)


def _column_of_messages(row: Record) -> str | None:
    """The column that holds the prompt as messages."""
    if row.get("prompt") is not None:
        return "prompt" if isinstance(row["prompt"], list | Mapping) else None
    return next((name for name in ("messages", "conversations") if row.get(name)), None)


def _messages_before(row: Record, column: str, names: Mapping[str, str]) -> tuple[Turn, ...]:
    """The prompt as the turns of a column. Raises RowError."""
    shown = names.get(column, column)
    refuse_history(row, names, shown)
    return turns_of(row[column], shown)


def _question(row: Record, names: Mapping[str, str]) -> tuple[str, str] | None:
    """The prompt as a text for a chat and for plain text, None where the row has none. Raises RowError."""
    if row.get("prompt") is not None:
        prompt = text_of(row, "prompt", names)
        return (prompt, prompt) if prompt.strip() else None
    return instruction_of(row, names) if row.get("instruction") is not None else None


def _chats(row: Record, sides: Sequence[tuple[Turn, ...]], names: Mapping[str, str]) -> Preference:
    """A pair whose answers are messages, which may begin with the prompt."""
    column, question = _column_of_messages(row), _question_of_chats(row, names)
    if question is not None:
        prompt = (*history_turns(row, names), Turn(role="user", content=question, extra={}))
    elif column == "prompt" or (column and all(len(side) == 1 for side in sides)):
        prompt = _messages_before(row, column, names)
    else:
        refuse_history(row, names, names.get("chosen", "chosen"))
        # Two equal conversations have no preference in them; their last message is still the answer.
        shared = max(0, min(_agreeing(*sides), *(len(side) - 1 for side in sides)))
        return _continued(row, sides[0][:shared], [side[shared:] for side in sides], names)
    # Datasets repeat the prompt at the beginning of both answers.
    answers = [side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in sides]
    return _continued(row, prompt, answers, names)


def _question_of_chats(row: Record, names: Mapping[str, str]) -> str | None:
    if _column_of_messages(row):
        return None
    question = _question(row, names)
    return question[0] if question else None


def _continued(
    row: Record, prompt: Sequence[Turn], answers: Sequence[tuple[Turn, ...]], names: Mapping[str, str]
) -> Preference:
    """The pair of two answers, of one turn each, to a prompt of turns. Raises RowError."""
    chats = []
    for name, answer in zip(SIDES, answers, strict=True):
        column = names.get(name, name)
        if len(answer) != 1:
            raise RowError(f"the column {column} has {len(answer)} messages after the prompt instead of one answer")
        chats.append(conversation([*system_turns(row, names), *prompt, *answer], row, column))
        if answer[0].role != "assistant":
            raise RowError(f"the column {column} does not end with an assistant message")
    return Preference(chosen=chats[0], rejected=chats[1])


def _whole_texts(row: Record, texts: Sequence[str], names: Mapping[str, str]) -> Preference:
    """A pair of texts that both begin with the prompt. Raises RowError where another column seems to be the prompt."""
    chosen, rejected = (names.get(name, name) for name in SIDES)
    refuse_history(row, names, chosen)
    asking = {name for name in row if given(row, name) is not None}
    if column := question_columns(asking).get("prompt"):
        raise RowError(
            f"the columns {chosen} and {rejected} have no prompt beside them: if it is the column {column}, set"
            f" dataset.columns {{prompt: {column}}}, else take that column out"
        )
    # A last space belongs to the first word of the answers.
    prompt = texts[0][: _agreeing(*texts)].removesuffix(" ")
    system = optional_text(row, "system", names)
    better, worse = (
        # Whole texts are what the model reads: no chat template is put around them.
        Completion(system=system, prompt=prompt, completion=text[len(prompt) :], plain_prompt=prompt, as_chat=False)
        for text in texts
    )
    return Preference(chosen=better, rejected=worse)


def _agreeing(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading elements are the same."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _said(content: str, place: str) -> Turn:
    return Turn(role="assistant", content=content, extra={}, place=place)


def draft_pair(pair: Preference, tokenizer: RowTokenizer) -> PairDraft | None:
    """Both answers as text, None where one is empty. Raises RowError."""
    if not all(_last_words(row).strip() for row in (pair.chosen, pair.rejected)):
        return None
    chosen, rejected = (tokenizer.draft(row, TrainOn.LAST_ANSWER) for row in (pair.chosen, pair.rejected))
    return PairDraft(chosen=chosen, rejected=rejected)


def _last_words(row: Conversation | Completion) -> str:
    if isinstance(row, Completion):
        return row.completion
    last = row.turns[-1]
    if not last.trained:
        return ""
    return last.content or ("tool calls" if "tool_calls" in last.extra else "")


def encode_pairs(drafts: Sequence[PairDraft], tokenizer: RowTokenizer) -> list[PairRow]:
    """Tokenised pairs of drafts, in order."""
    chosen = tokenizer.encode([draft.chosen for draft in drafts])
    rejected = tokenizer.encode([draft.rejected for draft in drafts])
    return [_pair(better, worse) for better, worse in zip(chosen, rejected, strict=True)]


def _pair(chosen: TokenRow, rejected: TokenRow) -> PairRow:
    """The pair, split where the prompt ends. Where tokens span prompt and answer, as far as both sequences agree."""
    limit = min(chosen.prompt_length, rejected.prompt_length)
    shared = _agreeing(chosen.input_ids[:limit], rejected.input_ids[:limit])
    return PairRow(
        prompt_ids=chosen.input_ids[:shared],
        chosen_ids=chosen.input_ids[shared : answer_end(chosen.completion_mask)],
        rejected_ids=rejected.input_ids[shared : answer_end(rejected.completion_mask)],
        prompt=chosen.prompt,
        chosen=chosen.completion,
        rejected=rejected.completion,
    )


def show_pair(row: Mapping[str, Any], tokenizer: RowTokenizer) -> str:
    """A pair as text for people: the prompt with the chosen answer, then the rejected one."""

    def shown(name: str) -> str:
        prompt, answer = row["prompt_ids"], row[f"{name}_ids"]
        return tokenizer.marked(prompt + answer, [0] * len(prompt) + [1] * len(answer))

    return f"chosen: {shown('chosen')}\nrejected: {shown('rejected')}"
