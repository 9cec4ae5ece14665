"""Detects a diverged run from its losses. Pure functions of the trainer's log, so that a resumed run decides alike.

A LoRA adapter starts as nothing: the first losses are those of the base model itself. A run has diverged when the mean
loss of WINDOW steps lies MARGIN nats above the mean of its first WINDOW, a perplexity seven times the base model's; or,
for what explodes at once, GUESSING_MARGIN above the loss of a model that finds every token of the vocabulary equally
likely. The margins leave room for the noise of steps of a single row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, takewhile
from statistics import fmean

WINDOW = 10
MARGIN = 2.0
GUESSING_MARGIN = 1.0


def highest_sane_loss(history: Sequence[Mapping], *, vocabulary: int) -> float:
    """The loss above which a run is in doubt."""
    first = list(islice(_losses(history), WINDOW))
    guessing = math.log(vocabulary) + GUESSING_MARGIN
    return guessing if len(first) < WINDOW else min(fmean(first) + MARGIN, guessing)


def in_doubt_since(history: Sequence[Mapping], *, vocabulary: int) -> int | None:
    """The step of the first of the newest losses that are too high, or None while the newest is not."""
    highest = highest_sane_loss(history, vocabulary=vocabulary)
    doubtful = list(takewhile(lambda entry: entry["loss"] > highest, _newest_first(history)))
    return doubtful[-1]["step"] if doubtful else None


def diverged(history: Sequence[Mapping], *, vocabulary: int) -> float | None:
    """The mean of the newest losses where that is too high, else None."""
    newest = [entry["loss"] for entry in islice(_newest_first(history), WINDOW)]
    if len(newest) < WINDOW:
        return None
    mean = fmean(newest)
    return mean if mean > highest_sane_loss(history, vocabulary=vocabulary) else None


def _newest_first(history: Sequence[Mapping]) -> Iterable[Mapping]:
    return (entry for entry in reversed(history) if "loss" in entry)


def _losses(history: Sequence[Mapping]) -> Iterable[float]:
    return (entry["loss"] for entry in history if "loss" in entry)
