"""How the rows of a training method become tokens and columns of a file: one encoder per method, used by rows.py.

An encoder turns a record into drafts (none where there is nothing in it to learn) and drafts into tokenised rows. A
record has one draft, or one for each answer where the chat template writes an answer otherwise once more messages
follow. Drafts are encoded many at a time, which the tokenizer does on all processors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, assert_never

from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method, TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation
from lora_trainer.data.formats import Completion, Row, Text, normalise
from lora_trainer.data.preferences import draft_pair, encode_pairs, normalise_pair, show_pair
from lora_trainer.data.questions import draft_question, normalise_question
from lora_trainer.data.spans import WrittenOtherwise
from lora_trainer.data.tokens import Draft, RowTokenizer, TokenRow
from lora_trainer.prepared import SCHEMAS, RowSchemas
from lora_trainer.rewards.panel import needed_columns


class TokenisedRow(Protocol):
    """What rows.py needs to know of a row of any method; its other attributes are columns of the file."""

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        ...

    @property
    def trained_tokens(self) -> int:
        """Tokens that count in the loss."""
        ...

    @property
    def teaches(self) -> bool:
        """Whether it can be trained on."""
        ...

    @property
    def prompt_ids(self) -> list[int]:
        """Tokens that ask for the last answer."""
        ...

    def contents(self) -> bytes:
        """What is trained on, as bytes: rows with equal contents are duplicates."""
        ...

    def truncated(self, limit: int) -> Self:
        """The row with every sequence cut to `limit` tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """How rows of one method are made."""

    schemas: RowSchemas
    draft: Callable[[Mapping[str, Any]], Sequence[Any]]
    """The samples of a record as text, none where nothing is in it to learn. Raises RowError."""
    encode: Callable[[Sequence[Any]], Sequence[TokenisedRow]]
    """Tokenised rows of drafts, in order."""
    show: Callable[[Mapping[str, Any]], str]
    """A row of the file as text for people, with what counts in the loss in \u27e6 \u27e7."""


def row_encoder(
    run: RunFile, row_format: RowFormat | None, columns: Mapping[str, str] | None, *, tokenizer: RowTokenizer
) -> RowEncoder:
    """The encoder of the run's method for one source; without a format there is no row to encode."""
    training = run.training
    match training.method:
        case Method.SFT:
            train_on = training.sft_settings.train_on
            return answers_encoder(tokenizer, row_format or RowFormat.TEXT, columns, train_on=train_on)
        case Method.DPO:
            return RowEncoder(
                schemas=SCHEMAS[Method.DPO],
                draft=lambda record: _at_most_one(draft_pair(normalise_pair(record, columns), tokenizer)),
                encode=lambda drafts: encode_pairs(drafts, tokenizer),
                show=lambda row: show_pair(row, tokenizer),
            )
        case Method.GRPO:
            needed = needed_columns(training.grpo.rewards if training.grpo else ())
            return RowEncoder(
                schemas=SCHEMAS[Method.GRPO],
                draft=lambda record: _at_most_one(
                    draft_question(normalise_question(record, columns, needed=needed), tokenizer)
                ),
                encode=lambda drafts: drafts,
                show=lambda row: row["prompt"],
            )
        case _:
            assert_never(training.method)


def answers_encoder(
    tokenizer: RowTokenizer, row_format: RowFormat, columns: Mapping[str, str] | None, *, train_on: TrainOn
) -> RowEncoder:
    """Rows of supervised fine-tuning: a text with a mask of what counts in the loss."""

    def draft(record: Mapping[str, Any]) -> tuple[Draft, ...]:
        row = normalise(record, row_format, columns)
        if isinstance(row, Conversation):
            row = _learned(row, train_on)
        return () if _is_empty(row, train_on) else _samples(row, tokenizer, train_on)

    def encode(drafts: Sequence[Draft]) -> list[TokenRow]:
        return tokenizer.encode(drafts)

    def show(row: Mapping[str, Any]) -> str:
        return tokenizer.marked(row["input_ids"], row["completion_mask"])

    return RowEncoder(schemas=SCHEMAS[Method.SFT], draft=draft, encode=encode, show=show)


def _at_most_one(draft: Any) -> tuple[Any, ...]:
    return () if draft is None else (draft,)


def _samples(row: Row, tokenizer: RowTokenizer, train_on: TrainOn) -> tuple[Draft, ...]:
    """The row as one sample; as one for each answer, each as it is given, where no single text shows all of them so."""
    try:
        return (tokenizer.draft(row, train_on),)
    except WrittenOtherwise:
        if train_on != TrainOn.ANSWERS or not isinstance(row, Conversation):
            raise
    given = (chat for chat in row.until_each_answer() if not _is_empty(chat, TrainOn.LAST_ANSWER))
    return tuple(tokenizer.draft(chat, TrainOn.LAST_ANSWER) for chat in given)


def _learned(row: Conversation, train_on: TrainOn) -> Conversation:
    """The chat without what follows its last answer that is learned. Raises RowError where a message is marked as not
    to be learned although everything is."""
    if train_on != TrainOn.EVERYTHING:
        return row.until_last_answer()
    if unlearned := next((turn for turn in row.turns if not turn.trained), None):
        raise RowError(f"{unlearned.place} is marked as not to be learned, but training.sft.trainOn is {train_on}")
    return row


def _is_empty(row: Row, train_on: TrainOn) -> bool:
    """Whether there is nothing to learn in the row but to end."""
    match row:
        case Text(text=text):
            return not text.strip()
        case Completion(completion=completion):
            return not completion.strip()
        case Conversation(turns=turns):
            answers = [turn for turn in turns if turn.learned]
            wanted = answers[-1:] if train_on == TrainOn.LAST_ANSWER else answers
            return not any(turn.content.strip() or "tool_calls" in turn.extra for turn in wanted)
