"""The best step so far, early stopping, and which evaluations are due: by the trainer's log alone."""

from __future__ import annotations

import math

import pytest
from lora_trainer.contract.progress import LossPoint
from lora_trainer.contract.spec.training import EarlyStoppingSpec
from lora_trainer.training.selection import best, by_step, evaluation_due, exhausted


def log(*losses: float, every: int = 2) -> list[dict]:
    """A log with these held-out losses, one after every so many steps."""
    entries: list[dict] = []
    for number, loss in enumerate(losses, 1):
        entries += [{"step": step, "loss": 2.0} for step in range(every * (number - 1) + 1, every * number + 1)]
        entries.append({"step": every * number, "eval_loss": loss})
    return entries


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((), None),
        ((3.0,), LossPoint(step=2, loss=3.0)),
        ((3.0, 2.0, 2.5), LossPoint(step=4, loss=2.0)),
        ((3.0, 2.0, 2.0), LossPoint(step=4, loss=2.0)),
        ((math.nan, 5.0, math.inf), LossPoint(step=4, loss=5.0)),
        ((math.nan,), None),
    ],
)
def test_the_best_is_the_earliest_of_the_lowest(losses: tuple[float, ...], expected: LossPoint | None) -> None:
    assert best(log(*losses)) == expected


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "expected"),
    [
        ((3.0, 2.0, 1.0), 1, 0.0, False),
        ((3.0, 2.0, 2.0), 1, 0.0, True),
        ((3.0, 2.0, 2.1, 2.2), 2, 0.0, True),
        ((3.0, 2.0, 2.1, 1.9, 2.0), 2, 0.0, False),
        ((3.0, 2.95, 2.9), 2, 0.2, True),
        ((3.0, 2.95, 2.9, 2.7), 3, 0.2, False),
        ((3.0, math.nan, math.nan), 2, 0.0, True),
    ],
)
def test_early_stopping_counts_evaluations_since_the_last_improvement(
    losses: tuple[float, ...], patience: int, min_delta: float, expected: bool
) -> None:
    rule = EarlyStoppingSpec(patience=patience, min_delta=min_delta)
    assert exhausted(log(*losses), rule) is expected
    assert not exhausted(log(*losses), None)


def test_an_evaluation_is_due_once_at_its_steps_and_at_the_last() -> None:
    assert [step for step in range(8) if evaluation_due([], step=step, every=3, last=step == 7)] == [3, 6, 7]
    assert not evaluation_due(log(2.0, every=3), step=3, every=3, last=False)
    assert not evaluation_due(log(2.0, every=7), step=7, every=3, last=True)
    assert not evaluation_due([], step=6, every=None, last=True)


def test_a_step_and_its_held_out_loss_become_one_entry_whichever_was_logged_first() -> None:
    evaluated_first = [{"step": 1, "eval_loss": 1.5}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.9}]
    evaluated_last = [evaluated_first[1], evaluated_first[2], evaluated_first[0], {"train_runtime": 3.0}]
    expected = [{"step": 1, "loss": 2.0, "eval_loss": 1.5}, {"step": 2, "loss": 1.9}]
    assert by_step(evaluated_first) == by_step(evaluated_last) == expected
