"""Row formats: detects the format of a dataset, and has one normaliser per format. Pure; reads no file.

A normaliser raises RowError with the reason why a row cannot be used; its caller knows file and line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import Record, RowError, given, optional_text, rename, shown_names, text_of, value_of
from lora_trainer.data.conversations import (
    Conversation,
    Turn,
    conversation,
    history_turns,
    refuse_history,
    system_turns,
    turns_of,
)
from lora_trainer.data.shapes import REFUSED, known, suggested_columns
from lora_trainer.errors import TrainerError


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One question and its answer: a chat where there is a chat template, else plain text after `plain_prompt`."""

    system: str | None
    prompt: str
    completion: str
    plain_prompt: str
    as_chat: bool = True
    """Whether a chat template may be put around it."""
    places: tuple[str, str] = field(default=("prompt", "completion"), compare=False)
    """The columns of the question and of the answer in the user's row."""

    def conversation(self) -> Conversation:
        """The same as a chat."""
        system = (Turn(role="system", content=self.system, extra={}, place="system"),) if self.system else ()
        return Conversation(turns=(*system, *exchange(self.prompt, self.completion, self.places)))


@dataclass(frozen=True, kw_only=True)
class Text:
    """Plain text: every token counts in the loss."""

    text: str


Row = Conversation | Completion | Text

WANTED = {
    Method.SFT: "messages, or conversations, or instruction and output, or prompt and completion, or text",
    Method.DPO: "chosen and rejected",
    Method.GRPO: "prompt",
}
"""Columns that a method learns from, in words."""
EXAMPLES = {
    Method.SFT: "{prompt: question, completion: answer}",
    Method.DPO: "{chosen: better, rejected: worse}",
    Method.GRPO: "{prompt: question}",
}
"""An example of mapped columns."""


def detect_format(
    records: Sequence[Record], columns: Mapping[str, str] | None, method: Method = Method.SFT
) -> RowFormat:
    """The format of most of the records, where only those count that can be read in theirs, if there is one.

    Raises DatasetInvalid that names the columns that were found, where they are those of no format.
    """
    found = [(record, of) for record in records if (of := _format_of(record, columns, method))]
    readable = Counter(of for record, of in found if _is_readable(record, of, columns))
    if votes := readable or Counter(of for _, of in found):
        return votes.most_common(1)[0][0]
    names = set(records[0])
    if shape := next((shape for shape in REFUSED if shape.sign <= names), None):
        raise TrainerError(ExitCode.DatasetInvalid, f"{shape.refusal}.", shape.remedy)
    suggested = suggested_columns(names, method)
    mapping = ", ".join(f"{name}: {theirs}" for name, theirs in suggested.items())
    example = f"here {{{mapping}}}" if mapping else f"for example {EXAMPLES[method]}"
    raise TrainerError(
        ExitCode.DatasetInvalid,
        f"The rows' columns fit no format of method {method}: found {shown_names(records[0])}; expected"
        f" {WANTED[method]}.",
        f"Rename the columns, map them in dataset.columns, {example}, or set training.method to the"
        " method that the rows are for.",
    )


def _is_readable(record: Record, row_format: RowFormat, columns: Mapping[str, str] | None) -> bool:
    """Whether the record can be read in its format. The other methods have one format each, which nothing decides."""
    if row_format not in NORMALISERS:
        return True
    try:
        normalise(record, row_format, columns)
    except RowError:
        return False
    return True


def _format_of(record: Record, columns: Mapping[str, str] | None, method: Method) -> RowFormat | None:
    try:
        row, _ = recognised(record, columns, method)
    except RowError:
        # The reason is told where the row is read.
        row = rename(record, columns)
    return _format_of_columns(row.keys(), method)


def _format_of_columns(names: Set[str], method: Method) -> RowFormat | None:
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


def recognised(record: Record, columns: Mapping[str, str] | None, method: Method) -> tuple[Record, Mapping[str, str]]:
    """The record with the columns that a format expects, and the user's names for them. Raises RowError."""
    row, names = known(rename(record, columns), method)
    return row, {**names, **(columns or {})}


def normalise(record: Record, row_format: RowFormat, columns: Mapping[str, str] | None) -> Row:
    """The record as a frozen row. Raises RowError."""
    return NORMALISERS[row_format](*recognised(record, columns, Method.SFT))


def _messages(record: Record, names: Mapping[str, str]) -> Row:
    return _chat(record, "messages", names)


def _sharegpt(record: Record, names: Mapping[str, str]) -> Row:
    return _chat(record, "conversations", names)


def _alpaca(record: Record, names: Mapping[str, str]) -> Row:
    prompt, plain_prompt = instruction_of(record, names)
    return answered(
        record,
        names,
        prompt=prompt,
        plain_prompt=plain_prompt,
        completion=text_of(record, "output", names),
        columns=("instruction", "output"),
    )


def _prompt_completion(record: Record, names: Mapping[str, str]) -> Row:
    prompt, completion = (value_of(record, name, names) for name in ("prompt", "completion"))
    if all(isinstance(value, list | Mapping) for value in (prompt, completion)):
        column = names.get("prompt", "prompt")
        refuse_history(record, names, column)
        asked, said = turns_of(prompt, column), turns_of(completion, names.get("completion", "completion"))
        return conversation([*system_turns(record, names), *asked, *said], record, column)
    prompt, completion = (text_of(record, name, names) for name in ("prompt", "completion"))
    columns = ("prompt", "completion")
    return answered(record, names, prompt=prompt, plain_prompt=prompt, completion=completion, columns=columns)


def _plain_text(record: Record, names: Mapping[str, str]) -> Row:
    return Text(text=text_of(record, "text", names))


NORMALISERS: Mapping[RowFormat, Callable[[Record, Mapping[str, str]], Row]] = {
    RowFormat.MESSAGES: _messages,
    RowFormat.SHAREGPT: _sharegpt,
    RowFormat.ALPACA: _alpaca,
    RowFormat.PROMPT_COMPLETION: _prompt_completion,
    RowFormat.TEXT: _plain_text,
}


def _chat(record: Record, name: str, names: Mapping[str, str]) -> Conversation:
    column = names.get(name, name)
    turns = turns_of(value_of(record, name, names), column)
    refuse_history(record, names, column)
    return conversation([*system_turns(record, names), *turns], record, column)


def instruction_of(record: Record, names: Mapping[str, str]) -> tuple[str, str]:
    """Alpaca's instruction and input as a question: for a chat, and for plain text. Raises RowError."""
    instruction, more = text_of(record, "instruction", names), optional_text(record, "input", names)
    heading = "### Instruction:\n" + instruction + (f"\n\n### Input:\n{more}" if more else "")
    return f"{instruction}\n\n{more}" if more else instruction, f"{heading}\n\n### Response:\n"


def answered(
    record: Record,
    names: Mapping[str, str],
    *,
    prompt: str,
    plain_prompt: str,
    completion: str,
    columns: tuple[str, str],
) -> Conversation | Completion:
    """A question and its answer as the texts of two columns; a chat where the record has a history or tools too.

    Raises RowError.
    """
    question, answer = (names.get(column, column) for column in columns)
    history = history_turns(record, names)
    if history or given(record, "tools") is not None:
        turns = [*system_turns(record, names), *history, *exchange(prompt, completion, (question, answer))]
        return conversation(turns, record, question)
    system = optional_text(record, "system", names)
    return Completion(
        system=system, prompt=prompt, completion=completion, plain_prompt=plain_prompt, places=(question, answer)
    )


def exchange(question: str, answer: str, places: tuple[str, str]) -> tuple[Turn, Turn]:
    """A question and its answer as turns, with their places."""
    asked, said = places
    return (
        Turn(role="user", content=question, extra={}, place=asked),
        Turn(role="assistant", content=answer, extra={}, place=said),
    )
