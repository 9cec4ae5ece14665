"""Whether an adapter is good enough to be published. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Artifact, Evaluation, PrepareResult, TrainResult
from lora_trainer.contract.spec.evaluation import GateMetric, GateSpec
from lora_trainer.errors import TrainerError


def failures(gates: Iterable[GateSpec], figures: Evaluation) -> tuple[str, ...]:
    """What `figures` miss of the gates, each as a clause with both numbers; empty where they pass."""
    return tuple(clause for gate in gates for clause in _missed(gate, figures))


def _missed(gate: GateSpec, figures: Evaluation) -> Iterator[str]:
    what, figure = _figure(gate.metric, figures)
    if figure is None:
        yield f"{what} was not measured"
        return
    # Written so that a figure that is not a number fails.
    if gate.maximum is not None and not figure <= gate.maximum:
        yield f"{what} {figure:.4f} is above max {gate.maximum:g}"
    if gate.minimum is not None and not figure >= gate.minimum:
        yield f"{what} {figure:.4f} is below min {gate.minimum:g}"


def _figure(metric: GateMetric, figures: Evaluation) -> tuple[str, float | None]:
    """Name and value of a figure; None where it was not measured."""
    match metric:
        case GateMetric.LOSS:
            return "held-out loss", figures.loss
        case GateMetric.IMPROVEMENT:
            return "improvement of the held-out loss", _improvement(figures)
        case GateMetric.TOKEN_ACCURACY:
            return "token accuracy", figures.token_accuracy
        case GateMetric.EXACT_MATCH:
            return "exact match", figures.exact_match
        case GateMetric.REWARD:
            return "mean reward", figures.reward
        case _:
            assert_never(metric)


def _improvement(figures: Evaluation) -> float | None:
    if figures.loss is None or figures.base_loss is None:
        return None
    return 1 - figures.loss / figures.base_loss if figures.base_loss else 0.0


def gate_failed(missed: tuple[str, ...], artifact: Artifact, result: PrepareResult | TrainResult) -> TrainerError:
    """The ending of a run whose adapter misses a gate."""
    return TrainerError(
        ExitCode.QualityGateFailed,
        f"The adapter did not pass evaluation.gates: {'; '.join(missed)}. It is kept at {artifact.uri}.",
        "Train longer or on better rows. If the adapter is good enough, apply the LoraFineTune under a new name with"
        " gates that it passes; it is then published without training again.",
        result=result,
    )
