"""Derives the conditions of a run from its phase, including those of kstatus.

Reconciling and Stalled exist only while True, so that `kubectl wait`, Flux and kstatus readers agree:
Stalled = a person must act, or the run has failed; Reconciling = the operator works, or waits for something that needs
no person; neither and Ready=True = done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto
from typing import assert_never

from lora_operator.api.conditions import Condition, ConditionType, drop, find, put
from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.reasons import Reason


class RunPhase(Enum):
    """What a run does or waits for."""

    WORKING = auto()
    NEEDS_PERSON = auto()
    SUSPENDED = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class ReadyState:
    """The run's phase, and the reason and message of its Ready condition."""

    phase: RunPhase
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StatusDraft:
    """A draft of a status, with the generation and time that every condition needs."""

    status: LoraFineTuneStatus
    generation: int
    now: datetime

    def set(self, kind: ConditionType, status: bool | None, *, reason: str, message: str) -> StatusDraft:
        """The draft with this condition."""
        conditions = put(
            self.status.conditions,
            kind,
            status=status,
            reason=reason,
            message=message,
            generation=self.generation,
            now=self.now,
        )
        return self.update(conditions=conditions)

    def without(self, kind: ConditionType) -> StatusDraft:
        """The draft without this condition."""
        return self.update(conditions=drop(self.status.conditions, kind))

    def update(self, **fields: object) -> StatusDraft:
        """The draft with these fields of the status replaced."""
        return replace(self, status=self.status.model_copy(update=fields))


def seen(status: LoraFineTuneStatus, *, generation: int) -> LoraFineTuneStatus:
    """The status with this observedGeneration, also in all its conditions: `kubectl wait` and kstatus treat a condition
    of an older generation as out of date."""
    conditions = tuple(
        condition.model_copy(update={"observed_generation": generation}) for condition in status.conditions
    )
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def conclude(draft: StatusDraft, ready_state: ReadyState) -> LoraFineTuneStatus:
    """The finished status: Ready, Reconciling, Stalled, Suspended and Finished follow from the ready_state."""
    reason, message = ready_state.reason, ready_state.message
    draft = replace(draft, status=seen(draft.status, generation=draft.generation))
    draft = draft.set(ConditionType.READY, ready_state.phase is RunPhase.DONE, reason=reason, message=message)
    # Remove only what is no longer true: a condition that is removed and set again gets a new lastTransitionTime.
    if ready_state.phase is not RunPhase.WORKING:
        draft = draft.without(ConditionType.RECONCILING)
    if ready_state.phase not in (RunPhase.NEEDS_PERSON, RunPhase.FAILED):
        draft = draft.without(ConditionType.STALLED)
    draft = _suspension(draft, ready_state)
    match ready_state.phase:
        case RunPhase.WORKING:
            draft = draft.set(ConditionType.RECONCILING, True, reason=reason, message=message)
        case RunPhase.NEEDS_PERSON:
            draft = draft.set(ConditionType.STALLED, True, reason=reason, message=message)
        case RunPhase.SUSPENDED:
            pass
        case RunPhase.DONE:
            draft = draft.set(ConditionType.FINISHED, True, reason=reason, message=message)
            draft = draft.update(completion_time=draft.now)
        case RunPhase.FAILED:
            draft = draft.set(ConditionType.FINISHED, True, reason=reason, message=message)
            draft = draft.set(ConditionType.STALLED, True, reason=reason, message=message)
            draft = draft.update(completion_time=draft.now)
        case _:
            assert_never(ready_state.phase)
    return draft.status


def _suspension(draft: StatusDraft, ready_state: ReadyState) -> StatusDraft:
    """The draft with the condition Suspended, which exists from the first suspension on."""
    if ready_state.phase is RunPhase.SUSPENDED:
        return draft.set(ConditionType.SUSPENDED, True, reason=ready_state.reason, message=ready_state.message)
    if find(draft.status.conditions, ConditionType.SUSPENDED) is None:
        return draft
    message = "The run is not suspended."
    return draft.set(ConditionType.SUSPENDED, False, reason=Reason.NOT_SUSPENDED, message=message)


def ready_reason(status: LoraFineTuneStatus) -> str | None:
    """The reason of Ready."""
    ready: Condition | None = find(status.conditions, ConditionType.READY)
    return ready.reason if ready is not None else None
