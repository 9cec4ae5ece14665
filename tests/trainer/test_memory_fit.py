"""The fit of the memory model to its measured points, which needs numpy. Seconds; no torch."""

from __future__ import annotations

from statistics import median

import pytest
from lora_trainer.memory import GIB
from lora_trainer.model_shape import model_shape

from benchmarks.vram import RESULTS, SHAPES, measured_bytes, read, read_point
from benchmarks.vram_fit import coefficients, left_out, predicted

ENTRIES = read(RESULTS)
POINTS = [read_point(entry) for entry in ENTRIES]
MEASURED = [measured_bytes(entry, point) for entry, point in zip(ENTRIES, POINTS, strict=True)]


def test_the_trainer_computes_with_what_was_fitted() -> None:
    fitted = coefficients(POINTS, MEASURED)
    for point in POINTS:
        ours = point.predicted_gib(model_shape(SHAPES[point.shape])) * GIB
        assert ours == pytest.approx(predicted(point, fitted), rel=0.003)


def test_a_point_is_predicted_by_the_others() -> None:
    errors = left_out(POINTS, MEASURED)
    assert median(abs(error) for error in errors) < 0.01
    assert min(errors) > -0.03
    assert max(errors) < 0.05
