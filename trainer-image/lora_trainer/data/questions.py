"""Rows of prompts that a model answers while it learns (GRPO). Normalises and renders them; no file.

A row has a `prompt`, as messages or as a text, and any other columns, which the rewards read. TRL generates from the
rendered text, which its tokenizer turns into the very tokens that were counted here.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from lora_trainer.contract.run import canonical_json
from lora_trainer.contract.spec.training import Method, TrainOn
from lora_trainer.data.columns import Record, RowError, text_of, value_of
from lora_trainer.data.conversations import Conversation, Turn, conversation, system_turns, turns_of
from lora_trainer.data.formats import Completion, answered, recognised
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.rewards.builtin import Answer

SOME_ANSWER = "an answer"
"""A prompt is rendered as the beginning of a row, and a row has an answer."""
ASKED = ("prompt", "system", "tools")
"""Columns that are part of what is asked."""
RESERVED = ("prompts", "completions", "completion_ids")
"""Names that reward functions know for something else."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt, and what its answers are judged by."""

    asked: Conversation | Completion
    """The prompt with an answer that stands for any."""
    prompt: Any
    """The prompt as in the dataset: messages or a text."""
    columns: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """One prompt as it is trained on."""

    prompt: str
    """What the model reads, but for a begin token that the tokenizer adds."""
    prompt_ids: list[int]
    row: str
    """JSON of prompt and columns, for the rewards."""
    question: str
    """What is asked, for people."""
    system: str | None = field(compare=False)
    """The system message that a chat begins with; what is read of it is in the prompt."""

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.prompt_ids)

    @property
    def tokens(self) -> int:
        """Tokens."""
        return len(self.prompt_ids)

    @property
    def trained_tokens(self) -> int:
        """None: the model learns from its own answers."""
        return 0

    @property
    def teaches(self) -> bool:
        """Whether it can be trained on."""
        return True

    def contents(self) -> bytes:
        """What is trained on, as bytes. A column of null counts as none: rewards are given None for both, and a file of
        Arrow has no row without a column."""
        row = json.loads(self.row)
        columns = {name: value for name, value in row["columns"].items() if value is not None}
        return array("i", self.prompt_ids).tobytes() + canonical_json(row | {"columns": columns})

    def truncated(self, limit: int) -> Self:
        """Never: a cut prompt asks something else. The API server refuses it."""
        raise ValueError(f"a prompt cannot be cut to {limit} tokens")


def normalise_question(record: Record, columns: Mapping[str, str] | None, *, needed: Sequence[str]) -> Question:
    """The record as a frozen question; `needed` are columns that the rewards read. Raises RowError."""
    row, names = recognised(record, columns, Method.GRPO)
    prompt = value_of(row, "prompt", names)
    others = {name: value for name, value in row.items() if name not in ASKED}
    for name in needed:
        value_of(row, name, names)
    for name in RESERVED:
        if name in others:
            raise RowError(f"the column {name} has the name of another argument of reward functions")
    if isinstance(prompt, list | Mapping):
        column = names.get("prompt", "prompt")
        turns = [
            *system_turns(row, names),
            *turns_of(prompt, column),
            Turn(role="assistant", content=SOME_ANSWER, extra={}),
        ]
        return Question(asked=conversation(turns, row, column), prompt=prompt, columns=others)
    text = text_of(row, "prompt", names)
    asked = answered(row, names, prompt=text, plain_prompt=text, completion=SOME_ANSWER, columns=("prompt", ""))
    return Question(asked=asked, prompt=text, columns=others)


def draft_question(question: Question, tokenizer: RowTokenizer) -> QuestionRow | None:
    """The question as it is trained on, None where nothing is asked. Raises RowError."""
    draft = tokenizer.draft(question.asked, TrainOn.LAST_ANSWER)
    if not draft.text[: draft.prompt_end].strip():
        return None
    prompt, ids = tokenizer.prompt(draft)
    try:
        row = canonical_json({"prompt": question.prompt, "columns": question.columns}).decode()
    except TypeError as error:
        raise RowError(f"it has a value that JSON cannot represent ({error})") from None
    return QuestionRow(prompt=prompt, prompt_ids=ids, row=row, question=draft.prompt or prompt, system=draft.system)


def answer_to(row: str, *, text: str, ids: Sequence[int]) -> Answer:
    """An answer to the question of a stored row, as rewards judge it."""
    values = json.loads(row)
    return Answer(text=text, ids=ids, prompt=values["prompt"], columns=values["columns"])
