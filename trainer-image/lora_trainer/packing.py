"""Whether rows are packed, and which of Unsloth's classes trains them fastest. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.training import Method

SHORTEST_PACKED_ROW = 2048
FULL_SHARE = 0.9
"""Rows that fill so much of a sequence in the mean are not packed: there is next to nothing to gain."""
ROWS_PACKED_TOGETHER = 1000
"""TRL packs so many rows at a time (the default batch of datasets' map)."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """The numbers of the data set that decide the run's size."""

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


def choose_packing(run: RunFile, data: DataSize, *, positions: int | None) -> Packing:
    """How the rows become sequences, and who trains them. `positions` are those that the model knows.

    Measured on an H200 (torch 2.11, Llama 8B's shape, 16k tokens a step, in tokens per second): packed chats of mixed
    lengths 16 200 through FastModel, whose compiled layers take them, and 10 100 through FastLanguageModel; full rows
    15 600 and 15 900.
    """
    length = packed_row_tokens(run.model.max_seq_length, positions=positions)
    packing, reason = _packing(run, data, length=length)
    if not packing:
        loader, gpu = Loader.FAST_LANGUAGE_MODEL, run.accelerator.kind is AcceleratorKind.GPU
        why = (f"loader {loader}: FastModel was measured to be faster for packed rows only.",) if gpu else ()
        return Packing(length=None, loader=loader, reasons=(reason, *why))
    # What several processes make of it was not measured.
    alone = run.resources.processes == 1
    loader = Loader.FAST_MODEL if alone else Loader.FAST_LANGUAGE_MODEL
    why = "it is the fastest for packed rows" if alone else "several GPUs share each step"
    return Packing(length=length, loader=loader, reasons=(reason, f"loader {loader}: {why}."))


def _packing(run: RunFile, data: DataSize, *, length: int) -> tuple[bool, str]:
    named = run.training.packing
    if run.training.method is not Method.SFT:
        return False, f"packing off: rows of method {run.training.method} cannot be packed."
    if run.accelerator.kind is AcceleratorKind.CPU:
        return False, "packing off: it needs a GPU."
    if named is not None:
        return named, f"packing {'on' if named else 'off'}: named by training.packing."
    if data.mean >= FULL_SHARE * length:
        return False, f"packing off: rows of {data.mean:.0f} tokens in the mean fill {length} by themselves."
    return True, f"packing on: rows have {data.mean:.0f} tokens in the mean, sequences {length}."


def packed_row_tokens(max_seq_length: int, *, positions: int | None = None) -> int:
    """Length that rows are packed to: short ones are packed longer, so that fewer launches fill the accelerator. Never
    longer than the model's positions, as Unsloth would stretch them."""
    times = ceil(SHORTEST_PACKED_ROW / max_seq_length)
    if positions is not None:
        times = min(times, positions // max_seq_length)
    return max_seq_length * max(1, times)


def packed_sequences(lengths: Sequence[int], *, length: int) -> int:
    """How many sequences of `length` tokens TRL makes of the rows: best fit decreasing (trl.data_utils.pack_dataset),
    some rows at a time."""
    starts = range(0, len(lengths), ROWS_PACKED_TOGETHER)
    return sum(_best_fit(lengths[start : start + ROWS_PACKED_TOGETHER], length=length) for start in starts)


def _best_fit(lengths: Sequence[int], *, length: int) -> int:
    count, spaces = 0, list[int]()  # left in the sequences so far, in order
    for row in sorted((min(row, length) for row in lengths), reverse=True):
        best = bisect_left(spaces, row)
        if best < len(spaces):
            space = spaces.pop(best)
        else:
            count, space = count + 1, length
        insort(spaces, space - row)
    return count


def sequence_tokens(run: RunFile, chosen: Chosen) -> int:
    """Tokens of the longest sequence that the model meets in training."""
    return chosen.packing_length or run.model.max_seq_length
