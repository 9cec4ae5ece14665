"""How a run's phase becomes conditions. kstatus is derived here and nowhere else.

Reconciling and Stalled are there only while True, so that `kubectl wait`, Flux and kstatus readers agree:
Stalled = somebody must act, or the run has failed; Reconciling = the operator is at work, or waits for what comes by
itself; neither and Ready=True = done.
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
    """What a run does, for those who wait."""

    WORKING = auto()
    NEEDS_PERSON = auto()
    SUSPENDED = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class ReadyState:
    """Where the run stands: its phase, one word, one sentence."""

    phase: RunPhase
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StatusDraft:
    """A status in the making, with what every condition needs."""

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
    """The status as derived from this generation. Conditions that stand are derived from it too: `kubectl wait` and
    kstatus take a condition of an older generation for out of date."""
    conditions = tuple(
        condition.model_copy(update={"observed_generation": generation}) for condition in status.conditions
    )
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def conclude(draft: StatusDraft, ready_state: ReadyState) -> LoraFineTuneStatus:
    """The finished status: Ready and its companions follow from the ready_state."""
    reason, message = ready_state.reason, ready_state.message
    draft = replace(draft, status=seen(draft.status, generation=draft.generation))
    draft = draft.set(ConditionType.READY, ready_state.phase is RunPhase.DONE, reason=reason, message=message)
    # Only what is no longer true goes: one that is set anew would seem to have begun just now.
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
    """Suspended appears with the first suspension and is then kept true to the facts."""
    if ready_state.phase is RunPhase.SUSPENDED:
        return draft.set(ConditionType.SUSPENDED, True, reason=ready_state.reason, message=ready_state.message)
    if find(draft.status.conditions, ConditionType.SUSPENDED) is None:
        return draft
    message = "The run is not suspended."
    return draft.set(ConditionType.SUSPENDED, False, reason=Reason.NOT_SUSPENDED, message=message)


def ready_reason(status: LoraFineTuneStatus) -> str | None:
    """The reason of Ready: the one word that says where the run stands."""
    ready: Condition | None = find(status.conditions, ConditionType.READY)
    return ready.reason if ready is not None else None
