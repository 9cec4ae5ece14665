"""Whether an adapter is good enough to be published. Pure."""

from __future__ import annotations

import math

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Artifact, Evaluation, PrepareResult, TrainResult
from lora_trainer.contract.spec.evaluation import GateSpec
from lora_trainer.errors import TrainerError


def failures(gate: GateSpec | None, figures: Evaluation) -> tuple[str, ...]:
    """What `figures` miss of the gate, each as a clause with both numbers; empty where they pass."""
    if gate is None:
        return ()
    loss, base_loss = _number(figures.loss), _number(figures.base_loss)
    improvement = 1 - loss / base_loss if base_loss else 0.0
    lower_is_better = (("held-out loss", loss, "maxEvalLoss", gate.max_eval_loss),)
    higher_is_better = (
        ("improvement of the held-out loss", improvement, "minImprovement", gate.min_improvement),
        ("token accuracy", _number(figures.token_accuracy), "minTokenAccuracy", gate.min_token_accuracy),
        ("exact match", _number(figures.exact_match), "minExactMatch", gate.min_exact_match),
        ("mean reward", _number(figures.reward), "minReward", gate.min_reward),
    )
    # Written so that a figure that is not a number fails.
    above = [
        f"{what} {figure:.4f} is above {field} {limit:g}"
        for what, figure, field, limit in lower_is_better
        if limit is not None and not figure <= limit
    ]
    below = [
        f"{what} {figure:.4f} is below {field} {limit:g}"
        for what, figure, field, limit in higher_is_better
        if limit is not None and not figure >= limit
    ]
    return (*above, *below)


def _number(figure: float | None) -> float:
    return math.nan if figure is None else figure


def gate_failed(missed: tuple[str, ...], artifact: Artifact, result: PrepareResult | TrainResult) -> TrainerError:
    """The ending of a run whose adapter misses its gate."""
    return TrainerError(
        ExitCode.QualityGateFailed,
        f"The adapter did not pass evaluation.gate: {'; '.join(missed)}. It is kept at {artifact.uri}.",
        "Train longer or on better rows; or, if it is good enough, apply the run under a new name with a gate that it"
        " passes: it is then published without training again.",
        result=result,
    )
