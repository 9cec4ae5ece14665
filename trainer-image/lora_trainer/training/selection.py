"""Which step's adapter is the best so far, and when to stop looking for a better one.

Pure functions of the trainer's log, which is part of every checkpoint: a resumed run decides as an uninterrupted one.
Entries with `eval_loss` are the held-out losses, those with `loss` the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lora_trainer.contract.progress import LossPoint
from lora_trainer.contract.spec.training import EarlyStoppingSpec

History = Sequence[dict[str, Any]]


def held_out_losses(history: History) -> list[LossPoint]:
    """The held-out losses so far, in order of steps."""
    found = (LossPoint(step=entry["step"], loss=entry["eval_loss"]) for entry in history if "eval_loss" in entry)
    return sorted(found, key=lambda point: point.step)


def evaluation_due(history: History, *, step: int, every: int | None, last: bool) -> bool:
    """Whether the held-out loss of `step` is wanted and not there. `last`: whether training ends with this step."""
    if every is None or step == 0 or not (last or step % every == 0):
        return False
    return all(point.step != step for point in held_out_losses(history))


def best(history: History) -> LossPoint | None:
    """The lowest held-out loss, the earliest of equal ones; None before the first."""
    finite = [point for point in held_out_losses(history) if math.isfinite(point.loss)]
    return min(finite, key=lambda point: point.loss, default=None)


def exhausted(history: History, rule: EarlyStoppingSpec | None) -> bool:
    """Whether the held-out loss has stopped improving."""
    if rule is None:
        return False
    lowest, waited = math.inf, 0
    for point in held_out_losses(history):
        if point.loss < lowest - rule.min_delta:
            lowest, waited = point.loss, 0
        else:
            waited += 1
    return waited >= rule.patience


def by_step(history: History) -> list[dict[str, Any]]:
    """One entry per step, with its held-out loss where it has one."""
    evaluated = {point.step: point.loss for point in held_out_losses(history)}
    steps = (entry for entry in history if "loss" in entry)
    return [entry | ({"eval_loss": evaluated[entry["step"]]} if entry["step"] in evaluated else {}) for entry in steps]
