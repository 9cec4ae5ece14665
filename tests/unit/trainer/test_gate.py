"""The gate: what passes, what is missed, and how that is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.evaluation import GateSpec
from lora_trainer.evaluation.gate import failures, gate_failed

from tests.builders import an_artifact, an_evaluation, train_result

FIGURES = an_evaluation(base_loss=2.0, loss=0.5).model_copy(
    update={"answers": 8, "base_exact_match": 0.0, "exact_match": 0.25, "reward": -0.5}
)

PASSES: list[dict[str, Any]] = [
    {},
    {"maxEvalLoss": 0.5},
    {"minImprovement": 0.75},
    {"minImprovement": 0},
    {"minTokenAccuracy": 0.85},
    {"maxEvalLoss": 0.6, "minImprovement": 0.7, "minTokenAccuracy": 0.8},
    {"minExactMatch": 0.25},
    {"minReward": -0.5},
]
MISSES: list[tuple[dict[str, Any], list[str]]] = [
    ({"maxEvalLoss": 0.4}, ["held-out loss 0.5000 is above maxEvalLoss 0.4"]),
    ({"minImprovement": 0.8}, ["improvement of the held-out loss 0.7500 is below minImprovement 0.8"]),
    ({"minTokenAccuracy": 0.9}, ["token accuracy 0.8500 is below minTokenAccuracy 0.9"]),
    ({"minReward": 0}, ["mean reward -0.5000 is below minReward 0"]),
    ({"minExactMatch": 0.5}, ["exact match 0.2500 is below minExactMatch 0.5"]),
    ({"maxEvalLoss": 0.4, "minTokenAccuracy": 0.8}, ["held-out loss 0.5000 is above maxEvalLoss 0.4"]),
    (
        {"maxEvalLoss": 0.4, "minTokenAccuracy": 0.9},
        ["held-out loss 0.5000 is above maxEvalLoss 0.4", "token accuracy 0.8500 is below minTokenAccuracy 0.9"],
    ),
]


@pytest.mark.parametrize("gate", PASSES, ids=str)
def test_what_passes(gate: dict[str, Any]) -> None:
    assert failures(GateSpec.model_validate(gate), FIGURES) == ()


@pytest.mark.parametrize(("gate", "missed"), MISSES, ids=str)
def test_what_is_missed(gate: dict[str, Any], missed: list[str]) -> None:
    assert list(failures(GateSpec.model_validate(gate), FIGURES)) == missed


def test_without_a_gate_everything_passes() -> None:
    assert failures(None, an_evaluation(base_loss=0.1, loss=9.0)) == ()


@pytest.mark.parametrize("gate", [{"maxEvalLoss": 9}, {"minImprovement": 0}])
def test_a_loss_that_is_no_number_never_passes(gate: dict[str, Any]) -> None:
    assert failures(GateSpec.model_validate(gate), an_evaluation(loss=math.nan))


def test_what_was_not_measured_never_passes() -> None:
    assert failures(GateSpec(min_exact_match=0.1), an_evaluation())


def test_the_ending_says_what_was_missed_where_it_is_and_what_to_do() -> None:
    artifact = an_artifact("s3://team-a/adapters/rejected/abc")
    error = gate_failed(("token accuracy 0.8 is below minTokenAccuracy 0.9",), artifact, train_result())
    assert error.code is ExitCode.QualityGateFailed
    assert "token accuracy 0.8 is below minTokenAccuracy 0.9. It is kept at s3://team-a/adapters/rejected/abc." in (
        error.message
    )
    assert error.remedy
    assert error.result == train_result()
