"""Gates: what passes, what is missed, and how that is told."""

from __future__ import annotations

import math

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.evaluation import GateMetric, GateSpec
from lora_trainer.evaluation.gate import failures, gate_failed

from tests.builders import an_artifact, an_evaluation, train_result

FIGURES = an_evaluation(base_loss=2.0, loss=0.5).model_copy(
    update={"answers": 8, "base_exact_match": 0.0, "exact_match": 0.25, "reward": -0.5}
)

LOSS, IMPROVEMENT, ACCURACY, MATCH, REWARD = GateMetric
Bounds = tuple[GateMetric, float | None, float | None]
"""Metric, min and max."""

PASSES: list[list[Bounds]] = [
    [],
    [(LOSS, None, 0.5)],
    [(IMPROVEMENT, 0.75, None)],
    [(IMPROVEMENT, 0, None)],
    [(ACCURACY, 0.85, None)],
    [(LOSS, None, 0.6), (IMPROVEMENT, 0.7, None), (ACCURACY, 0.8, 0.9)],
    [(MATCH, 0.25, None)],
    [(REWARD, -0.5, None)],
]
MISSES: list[tuple[list[Bounds], list[str]]] = [
    ([(LOSS, None, 0.4)], ["held-out loss 0.5000 is above max 0.4"]),
    ([(IMPROVEMENT, 0.8, None)], ["improvement of the held-out loss 0.7500 is below min 0.8"]),
    ([(ACCURACY, 0.9, None)], ["token accuracy 0.8500 is below min 0.9"]),
    ([(ACCURACY, 0.1, 0.8)], ["token accuracy 0.8500 is above max 0.8"]),
    ([(REWARD, 0, None)], ["mean reward -0.5000 is below min 0"]),
    ([(MATCH, 0.5, None)], ["exact match 0.2500 is below min 0.5"]),
    ([(LOSS, None, 0.4), (ACCURACY, 0.8, None)], ["held-out loss 0.5000 is above max 0.4"]),
    (
        [(LOSS, None, 0.4), (ACCURACY, 0.9, None)],
        ["held-out loss 0.5000 is above max 0.4", "token accuracy 0.8500 is below min 0.9"],
    ),
]


def gates(bounds: list[Bounds]) -> list[GateSpec]:
    return [GateSpec(metric=metric, minimum=low, maximum=high) for metric, low, high in bounds]


@pytest.mark.parametrize("bounds", PASSES, ids=str)
def test_what_passes(bounds: list[Bounds]) -> None:
    assert failures(gates(bounds), FIGURES) == ()


@pytest.mark.parametrize(("bounds", "missed"), MISSES, ids=str)
def test_what_is_missed(bounds: list[Bounds], missed: list[str]) -> None:
    assert list(failures(gates(bounds), FIGURES)) == missed


@pytest.mark.parametrize("bound", [(LOSS, None, 9), (IMPROVEMENT, 0, None)])
def test_a_loss_that_is_no_number_never_passes(bound: Bounds) -> None:
    assert failures(gates([bound]), an_evaluation(loss=math.nan))


@pytest.mark.parametrize(
    ("metric", "what"), [(IMPROVEMENT, "improvement of the held-out loss"), (REWARD, "mean reward")]
)
def test_what_was_not_measured_never_passes(metric: GateMetric, what: str) -> None:
    figures = an_evaluation().model_copy(update={"loss": None, "base_loss": None})
    assert failures(gates([(metric, -9, 9)]), figures) == (f"{what} was not measured",)


def test_the_ending_says_what_was_missed_where_it_is_and_what_to_do() -> None:
    artifact = an_artifact("s3://team-a/adapters/rejected/abc")
    error = gate_failed(("token accuracy 0.8 is below min 0.9",), artifact, train_result())
    assert error.code is ExitCode.QualityGateFailed
    assert "token accuracy 0.8 is below min 0.9. It is kept at s3://team-a/adapters/rejected/abc." in (error.message)
    assert error.remedy
    assert error.result == train_result()
