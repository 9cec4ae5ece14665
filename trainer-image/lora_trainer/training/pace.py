"""How fast the steps follow each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

FEWEST_STEPS = 3
"""The first steps compile and fill caches, so a median of fewer steps would not be typical."""


def median_step_seconds(seen: Sequence[tuple[float, int]]) -> float | None:
    """Median seconds of a step, from (seconds, steps done) after each step; None while there are too few."""
    taken = [(now - before) / (step - last) for (before, last), (now, step) in pairwise(seen) if step > last]
    return round(median(taken), 3) if len(taken) >= FEWEST_STEPS else None
