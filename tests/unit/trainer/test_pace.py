"""How fast the steps follow each other."""

from __future__ import annotations

import pytest
from lora_trainer.training.pace import median_step_seconds

CASES = [
    ([], None),
    ([(0.0, 0)], None),
    ([(0.0, 0), (90.0, 1), (92.0, 2)], None),
    ([(0.0, 0), (90.0, 1), (92.0, 2), (94.0, 3)], 2.0),
    ([(0.0, 0), (90.0, 1), (92.0, 2), (94.0, 3), (124.0, 4)], 16.0),
    ([(0.0, 30), (10.0, 40), (20.0, 50), (30.0, 60)], 1.0),
    ([(0.0, 0), (1.0, 1), (1.5, 1), (2.0, 2), (3.0, 3), (4.0, 4)], 1.0),
]


@pytest.mark.parametrize(("seen", "pace"), CASES)
def test_the_median_of_the_steps_once_there_are_some(seen: list[tuple[float, int]], pace: float | None) -> None:
    assert median_step_seconds(seen) == pace
