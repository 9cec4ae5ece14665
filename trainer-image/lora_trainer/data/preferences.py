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

from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.formats import (
    Completion,
    Conversation,
    Record,
    RowError,
    conversation,
    kind_of,
    optional_text,
    rename,
    text_of,
    value_of,
)
from lora_trainer.data.tokens import Draft, RowTokenizer, TokenRow

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
    names = columns or {}
    row = rename(record, columns)
    chosen, rejected = value_of(row, "chosen", names), value_of(row, "rejected", names)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _chats(row, chosen, rejected, names)
    if isinstance(row.get("prompt"), list):
        # A prompt of messages with answers as texts.
        chosen, rejected = text_of(row, "chosen", names), text_of(row, "rejected", names)
        return _chats(row, [_answer(chosen)], [_answer(rejected)], names)
    return _texts(row, text_of(row, "chosen", names), text_of(row, "rejected", names), names)


def _chats(row: Record, chosen: list[Any], rejected: list[Any], names: Mapping[str, str]) -> Preference:
    prompt = row.get("prompt")
    if prompt is None:
        # Two equal conversations have no preference in them; their last message is still the answer.
        shared = max(0, min(_agreeing(chosen, rejected), len(chosen) - 1, len(rejected) - 1))
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif isinstance(prompt, str):
        # Datasets repeat the prompt as the first message of both answers.
        prompt = [{"role": "user", "content": prompt}]
        chosen, rejected = (answer[1:] if answer[:1] == prompt else answer for answer in (chosen, rejected))
    elif not isinstance(prompt, list):
        column = names.get("prompt", "prompt")
        raise RowError(f"the column {column} is {kind_of(prompt)} instead of messages or a string")
    if system := optional_text(row, "system", names):
        prompt = [{"role": "system", "content": system}, *prompt]
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1:
            raise RowError(
                f"the column {names.get(name, name)} has {len(answer)} messages after the prompt instead of one answer"
            )
    chats = [
        conversation([*prompt, *answer], row, names.get(name, name))
        for name, answer in (("chosen", chosen), ("rejected", rejected))
    ]
    for name, chat in zip(("chosen", "rejected"), chats, strict=True):
        if chat.turns[-1].role != "assistant":
            raise RowError(f"the column {names.get(name, name)} does not end with an assistant message")
    return Preference(chosen=chats[0], rejected=chats[1])


def _texts(row: Record, chosen: str, rejected: str, names: Mapping[str, str]) -> Preference:
    prompt = optional_text(row, "prompt", names)
    as_text = prompt is None
    if prompt is None:
        # A last space belongs to the first word of the answers.
        prompt = chosen[: _agreeing(chosen, rejected)].removesuffix(" ")
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    system = optional_text(row, "system", names)
    better, worse = (
        # Whole texts are what the model reads: no chat template is put around them.
        Completion(system=system, prompt=prompt, completion=answer, plain_prompt=prompt, as_chat=not as_text)
        for answer in (chosen, rejected)
    )
    return Preference(chosen=better, rejected=worse)


def _agreeing(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading elements are the same."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


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
        chosen_ids=chosen.input_ids[shared : _end(chosen)],
        rejected_ids=rejected.input_ids[shared : _end(rejected)],
        prompt=chosen.prompt,
        chosen=chosen.completion,
        rejected=rejected.completion,
    )


def _end(row: TokenRow) -> int:
    """Where the answer ends: what a template writes after its end token is not the model's to write."""
    return max((index for index, trained in enumerate(row.completion_mask, start=1) if trained), default=0)


def show_pair(row: Mapping[str, Any], tokenizer: RowTokenizer) -> str:
    """A pair as text for people: the prompt with the chosen answer, then the rejected one."""

    def shown(name: str) -> str:
        prompt, answer = row["prompt_ids"], row[f"{name}_ids"]
        return tokenizer.marked(prompt + answer, [0] * len(prompt) + [1] * len(answer))

    return f"chosen: {shown('chosen')}\nrejected: {shown('rejected')}"
