"""How base and adapter are compared, and when the adapter is good enough."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.names import LABEL
from lora_trainer.contract.spec.places import DataPlace
from lora_trainer.contract.wire import WireModel

MAX_SETS = 8


class GateMetric(StrEnum):
    """Figures of the adapter on held-out rows."""

    LOSS = "Loss"
    """Loss per token, in nats."""
    IMPROVEMENT = "Improvement"
    """Share by which the adapter lowers the base model's loss."""
    TOKEN_ACCURACY = "TokenAccuracy"
    """Share of tokens that are predicted."""
    EXACT_MATCH = "ExactMatch"
    """Share of generated answers that are exactly right."""
    REWARD = "Reward"
    """Mean reward of the answers (method GRPO)."""


class GateSpec(WireModel):
    """A limit for one figure of the adapter."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.min) || has(self.max)", "A gate needs min, max or both."),
            rule(
                "self.metric in ['Loss', 'Reward'] || ((!has(self.min) || (self.min >= 0.0 && self.min <= 1.0))"
                " && (!has(self.max) || (self.max >= 0.0 && self.max <= 1.0)))",
                "Improvement, TokenAccuracy and ExactMatch are shares: set min and max between 0 and 1.",
            ),
        )
    )

    metric: GateMetric
    """Figure on the held-out rows: Loss (per token, nats), Improvement (share by which the adapter lowers the base
    model's loss), TokenAccuracy (share of tokens that are predicted), ExactMatch (share of generated answers that are
    right; needs evaluation.exactMatch) or Reward (mean reward, method GRPO)."""
    minimum: Annotated[float | None, Field(alias="min", ge=-8_000, le=8_000)] = None
    """Smallest value that passes."""
    maximum: Annotated[float | None, Field(alias="max", ge=-8_000, le=8_000)] = None
    """Largest value that passes."""


def _one_for_each_metric(gates: tuple[GateSpec, ...]) -> tuple[GateSpec, ...]:
    if len({gate.metric for gate in gates}) < len(gates):
        raise ValueError("two gates have the same metric")
    return gates


class ExactMatchSpec(WireModel):
    """Comparison of answers generated for held-out rows with their references, ignoring white space."""

    rows: Annotated[int, Field(ge=1, le=1000)] = 32
    """Number of held-out rows that base and adapter answer."""
    ignore_case: bool = False
    """Whether upper and lower case count as the same."""


class EvaluationSettings(WireModel):
    """How much is compared: what a class may give to runs that leave it unset."""

    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the dataset that is held out when evaluation.dataset is unset."""
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Maximum number of rows evaluated."""
    samples: Annotated[int, Field(ge=0, le=16)] = 3
    """Number of held-out prompts that base and adapter answer; evaluation.json has the answers."""


class EvaluationSetSpec(DataPlace):
    """A further set of rows to evaluate on."""

    name: Annotated[str, Field(min_length=1, max_length=32, pattern=rf"^{LABEL}$")]
    """Name of its figures."""
    max_rows: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Maximum number of its rows evaluated. Unset: evaluation.maxRows."""


def _names_differ(sets: tuple[EvaluationSetSpec, ...]) -> tuple[EvaluationSetSpec, ...]:
    if len({each.name for each in sets}) < len(sets):
        raise ValueError("two sets have the same name")
    return sets


class EvaluationSpec(EvaluationSettings):
    """How base and adapter are compared on rows that were not trained on."""

    dataset: DataPlace | None = None
    """Rows to evaluate on, in the format of the dataset. Unset: rows held out of the dataset."""
    datasets: Annotated[
        tuple[EvaluationSetSpec, ...],
        Field(
            max_length=MAX_SETS,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
        AfterValidator(_names_differ),
    ] = ()
    """Further sets of rows in the format of the dataset, each with figures of its own. No row of theirs is trained on.
    Gates, samples and evaluations during training are for evaluation.dataset, or the rows held out, alone."""
    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=8192)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Your own prompts, rendered like the rows of the dataset and answered by base and adapter. The answers are
    published in evaluation.json and in the model card."""
    system_prompt: Annotated[str, Field(max_length=8192)] | None = None
    """System message that leads each of evaluation.prompts; empty for none. Unset: that of the rows of the dataset,
    where all of them have the same."""
    exact_match: ExactMatchSpec | None = None
    """Compare generated answers with their references. Unset: no answers are generated for this."""
    gates: Annotated[
        tuple[GateSpec, ...],
        Field(
            max_length=len(GateMetric),
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
        ),
        AfterValidator(_one_for_each_metric),
    ] = ()
    """Gates that the adapter must all pass to be published. An adapter that fails one is kept, complete and verified,
    in <output.uri>/rejected/<run digest>/, and the run ends as QualityGateFailed. Another run with gates that it passes
    publishes it without training again. Unset: every adapter is published."""

    def of_set(self, named: EvaluationSetSpec) -> EvaluationSpec:
        """How base and adapter are compared on a further set."""
        return self.model_copy(update={"max_rows": named.max_rows or self.max_rows, "samples": 0})
