"""How base and adapter are compared, and when the adapter is good enough."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lora_trainer.contract.spec.uris import DATA_URI
from lora_trainer.contract.wire import WireModel


class GateSpec(WireModel):
    """What the adapter must reach on the held-out rows. Every value that is set must be met."""

    max_eval_loss: Annotated[float, Field(gt=0, le=100)] | None = None
    """Highest held-out loss per token (nats) with the adapter."""
    min_improvement: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Smallest share by which the adapter lowers the base model's held-out loss: 0.2 asks for a loss at least 20 %
    lower."""
    min_token_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of held-out tokens that are predicted with the adapter."""
    min_exact_match: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of generated answers that are exactly right. Needs evaluation.exactMatch."""
    min_reward: Annotated[float, Field(ge=-8_000, le=8_000)] | None = None
    """Method GRPO: smallest mean reward of the answers to held-out prompts with the adapter."""


class ExactMatchSpec(WireModel):
    """Answers generated on held-out rows and compared with their references, white space aside."""

    rows: Annotated[int, Field(ge=1, le=1000)] = 32
    """Held-out rows that are answered, by base and adapter."""
    ignore_case: bool = False
    """Whether upper and lower case count as the same."""


class EvaluationSettings(WireModel):
    """How much is compared: what a class may give to runs that leave it unset."""

    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the data set that is held out when datasetUri is unset."""
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Most rows evaluated."""
    samples: Annotated[int, Field(ge=0, le=16)] = 3
    """Held-out prompts answered by base and adapter; the answers are published in evaluation.json."""


class EvaluationSpec(EvaluationSettings):
    """How base and adapter are compared on rows that were not trained on."""

    dataset_uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)] | None = None
    """Rows to evaluate on, in the format of the data set. Unset: rows held out of the data set."""
    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=8192)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Prompts of your own, asked as the rows of the data set ask and answered by base and adapter; the answers are
    published in evaluation.json and in the model card."""
    exact_match: ExactMatchSpec | None = None
    """Compare generated answers with their references. Unset: no answers are generated for this."""
    gate: GateSpec | None = None
    """What the adapter must reach to be published. One that does not is kept, whole and verified, in
    <output.uri>/rejected/<run digest>/, and the run ends as QualityGateFailed. Another run with a gate that it passes
    publishes it without training again. Unset: every adapter is published."""
