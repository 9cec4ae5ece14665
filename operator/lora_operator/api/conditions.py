"""Conditions as metav1.Condition has them. Setting one moves lastTransitionTime only when its status changes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from lora_trainer.contract.outcome import clip
from lora_trainer.contract.wire import WireModel
from pydantic import AfterValidator, Field

MAX_MESSAGE = 2048

ConditionStatus = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """Every condition type of a LoraFineTune, in the order in which `kubectl describe` is read."""

    ACCEPTED = "Accepted"
    PREPARED = "Prepared"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


ORDER: dict[str, int] = {kind: index for index, kind in enumerate(ConditionType)}


class Condition(WireModel):
    """One observation of the run's state."""

    type: Annotated[str, Field(max_length=316)]
    """Kind of condition."""
    status: Annotated[ConditionStatus, Field()]
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)]
    """metadata.generation that this condition was derived from."""
    last_transition_time: datetime
    """When status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One CamelCase word."""
    message: Annotated[str, Field(max_length=MAX_MESSAGE)]
    """A sentence: what happened and, where something is to be done, what."""


def in_order(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """The conditions in reading order. The API server keeps an order of its own; types unknown here come last."""
    return tuple(sorted(conditions, key=lambda condition: ORDER.get(condition.type, len(ORDER))))


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
    AfterValidator(in_order),
]
"""The conditions of an object, one of each type."""


def find(conditions: tuple[Condition, ...], kind: ConditionType) -> Condition | None:
    """The condition of that type, if any."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: tuple[Condition, ...], kind: ConditionType) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def put(
    conditions: tuple[Condition, ...],
    kind: ConditionType,
    *,
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """The conditions with this one set. `status` None means Unknown."""
    word: ConditionStatus = "Unknown" if status is None else "True" if status else "False"
    before = find(conditions, kind)
    since = now
    if before is not None:
        # The clock of the operator that wrote the one before may have been ahead of this one.
        since = before.last_transition_time if before.status == word else max(now, before.last_transition_time)
    entry = Condition(
        type=kind,
        status=word,
        observed_generation=generation,
        last_transition_time=since,
        reason=reason,
        message=clip(message, MAX_MESSAGE),
    )
    return in_order((*drop(conditions, kind), entry))


def drop(conditions: tuple[Condition, ...], kind: ConditionType) -> tuple[Condition, ...]:
    """The conditions without this one."""
    return tuple(condition for condition in conditions if condition.type != kind)
