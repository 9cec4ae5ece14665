"""Whether rows are packed, into which sequences, and which of Unsloth's classes trains them fastest. Pure."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.training import Method
from lora_trainer.errors import TrainerError
from lora_trainer.model_shape import ModelShape

SHORTEST_PACKED_ROW = 2048
NOT_KEPT_APART = {"gemma2", "gpt_oss"}
"""Types of models that Unsloth does not pack (PADDING_FREE_BLOCKLIST of unsloth/trainer.py)."""
FULL_SHARE = 0.9
"""Rows that fill this share of a sequence on average are not packed, because there is little to gain."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """The numbers of the dataset that determine the run's size."""

    lengths: Sequence[int]
    """Tokens of the longest sequence of each row that is trained on, in their order."""
    tokens: int
    """Tokens of all sequences."""

    @property
    def rows(self) -> int:
        """Rows trained on."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def mean(self) -> float:
        """Tokens of a row."""
        return self.tokens / self.rows


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How rows become sequences."""

    length: int | None
    """Tokens that rows are packed to; None where they are not."""
    loader: Loader
    reasons: tuple[str, ...]
    """A sentence for each choice."""


def choose_packing(run: RunFile, data: DataSize, *, shape: ModelShape) -> Packing:
    """Choose whether rows are packed, and with which loader they are trained.

    Measured on an H200 (torch 2.11, Llama 8B's shape, 16k tokens a step, in tokens per second): packed chats of mixed
    lengths 16 200 through FastModel, whose compiled layers take them, and 10 100 through FastLanguageModel; full rows
    15 600 and 15 900.
    """
    length = packed_row_tokens(run.model.max_seq_length, positions=shape.positions)
    packing, reason = _packing(run, data, length=length, shape=shape)
    if not packing:
        loader, gpu = Loader.FAST_LANGUAGE_MODEL, run.accelerator.kind is AcceleratorKind.GPU
        why = (f"loader {loader}: FastModel is faster only for packed rows.",) if gpu else ()
        return Packing(length=None, loader=loader, reasons=(reason, *why))
    # FastModel was not measured with several processes.
    alone = run.parallelism.processes == 1
    loader = Loader.FAST_MODEL if alone else Loader.FAST_LANGUAGE_MODEL
    why = "it is the fastest for packed rows" if alone else "several GPUs share each step"
    return Packing(length=length, loader=loader, reasons=(reason, f"loader {loader}: {why}."))


def _packing(run: RunFile, data: DataSize, *, length: int, shape: ModelShape) -> tuple[bool, str]:
    named = run.training.packing
    if run.training.method is not Method.SFT:
        return False, f"packing off: rows of method {run.training.method} cannot be packed."
    if run.accelerator.kind is AcceleratorKind.CPU:
        return False, "packing off: it needs a GPU."
    if together := _together(shape):
        return False, f"packing off: {together}."
    if named is not None:
        return named, f"packing {'on' if named else 'off'}: set by training.packing."
    if data.mean >= FULL_SHARE * length:
        return (
            False,
            f"packing off: rows have {data.mean:.0f} tokens on average and already fill sequences of {length}.",
        )
    return True, f"packing on: rows have {data.mean:.0f} tokens on average, sequences {length}."


def _together(shape: ModelShape) -> str | None:
    """Why packed rows would influence each other in this model, if they would."""
    if shape.model_type in NOT_KEPT_APART:
        return f"Unsloth does not keep packed rows apart in models of type {shape.model_type}"
    if shape.recurrent:
        return "some layers would pass a state from one packed row to the next"
    return None


def influence_each_other(why: str) -> TrainerError:
    """The error of a run whose packed rows would be trained as one conversation."""
    return TrainerError(
        ExitCode.ConfigInvalid,
        f"Packed rows influence each other in this model: {why}. They would be trained as one conversation.",
        "Set training.packing to false, and apply the LoraFineTune under a new name.",
    )


def packed_row_tokens(max_seq_length: int, *, positions: int | None = None) -> int:
    """Length that rows are packed to: short ones are packed longer, so that fewer launches fill the accelerator. Never
    longer than the model's positions, as Unsloth would stretch them."""
    times = ceil(SHORTEST_PACKED_ROW / max_seq_length)
    if positions is not None:
        times = min(times, positions // max_seq_length)
    return max_seq_length * max(1, times)


def pack(lengths: Sequence[int], *, length: int, seed: int) -> list[list[int]]:
    """The rows of each sequence of `length` tokens, by their index in `lengths`. No row may be longer.

    Rows come in random order, and each goes where it leaves the least space. TRL packs the longest first, which puts
    rows of one length together: they are often of one kind (one schema, one template), and a step that sees few kinds,
    or few rows, teaches less. Text-to-SQL rows that were packed so ended with a held-out loss 8 % above that of rows in
    random order (benchmarks/quality.py).
    """
    order = [*range(len(lengths))]
    random.Random(seed).shuffle(order)
    shortest = min(lengths)
    sequences, spaces = list[list[int]](), list[tuple[int, int]]()  # space that is left in which sequence, ascending
    for row in order:
        best = bisect_left(spaces, (lengths[row], 0))
        if best < len(spaces):
            space, sequence = spaces.pop(best)
        else:
            space, sequence = length, len(sequences)
            sequences.append([])
        sequences[sequence].append(row)
        if (left := space - lengths[row]) >= shortest:
            insort(spaces, (left, sequence))
    return sequences


def sequence_tokens(run: RunFile, chosen: Chosen) -> int:
    """Tokens of the longest sequence that the model meets in training."""
    return chosen.packing_length or run.model.max_seq_length
