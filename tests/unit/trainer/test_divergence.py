"""When a run counts as lost: by its losses alone."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from lora_trainer.training.divergence import MARGIN, WINDOW, diverged, in_doubt_since

VOCABULARY = 49_152


def log(*losses: float) -> list[dict]:
    """A trainer's log: other entries stand between those of the steps."""
    entries: list[dict] = []
    for step, loss in enumerate(losses, 1):
        entries += [{"step": step, "loss": loss}, {"step": step, "eval_loss": 99.0}]
    return entries


def lost_at(losses: list[float]) -> int | None:
    """The first step at which the run is given up."""
    steps = range(1, len(losses) + 1)
    return next((step for step in steps if diverged(log(*losses[:step]), vocabulary=VOCABULARY) is not None), None)


@pytest.mark.parametrize(
    "losses",
    [
        [2.5 - 0.01 * step for step in range(200)],
        [2.5] * 20 + [9.0] + [2.5] * 20,
        [0.02] * 20 + [0.2] * 20,
        [2.5] * 12 + [2.5 + MARGIN - 0.1] * 50,
    ],
    ids=["falls", "one bad batch", "ten times a tiny loss", "worse, but within the margin"],
)
def test_a_run_that_can_recover_goes_on(losses: list[float]) -> None:
    assert lost_at(losses) is None


def test_noise_of_single_rows_is_no_divergence() -> None:
    for seed in range(50):
        noise = random.Random(seed)
        assert lost_at([max(0.0, noise.gauss(2.0 - step / 500, 1.0)) for step in range(500)]) is None


def test_a_loss_that_explodes_is_noticed_within_two_windows() -> None:
    exploding = list(accumulate([2.5] * 20 + [0.8] * 30, lambda last, step: last if step == 2.5 else last + step))
    given_up = lost_at(exploding)
    assert given_up is not None
    assert 20 < given_up <= 20 + 2 * WINDOW


def test_one_that_explodes_in_its_first_steps_too() -> None:
    assert lost_at([2.5] + [14.0] * 30) == WINDOW


def test_doubt_names_the_first_of_the_bad_steps() -> None:
    losses = [2.5] * 12 + [9.0, 2.5] + [8.0, 9.0, 10.0]
    assert in_doubt_since(log(*losses), vocabulary=VOCABULARY) == 15
    assert in_doubt_since(log(*losses[:-3]), vocabulary=VOCABULARY) is None
    assert in_doubt_since([], vocabulary=VOCABULARY) is None
