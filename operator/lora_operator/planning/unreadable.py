"""What to say of a run whose spec, or what it was resolved to, does not fit this operator's version."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import StoredRun
from lora_operator.api.reasons import Reason
from lora_operator.planning.events import transition
from lora_operator.planning.plan_builder import Plan
from lora_operator.planning.status import ReadyState, RunPhase, StatusDraft, conclude

RECHECK = timedelta(minutes=1)
"""An API server may go on for a moment with a former schema, and nobody tells when it takes up the new one."""


def unreadable_plan(run: StoredRun, problem: str, now: datetime) -> Plan:
    """Nothing is started or stopped: only a person can tell what was meant. `problem` is one sentence without its
    full stop."""
    if run.deleting or run.status.terminal:
        return Plan(status=run.status)
    message = (
        f"{problem}. What wrote it is of another version than this operator: install CRDs and operator of one release, "
        "or delete the run and apply it anew."
    )
    draft = StatusDraft(status=run.status, generation=run.generation, now=now)
    draft = draft.set(ConditionType.ACCEPTED, False, reason=Reason.SPEC_INVALID, message=message)
    ready_state = ReadyState(phase=RunPhase.NEEDS_PERSON, reason=Reason.SPEC_INVALID, message=message)
    return Plan(status=conclude(draft, ready_state), events=transition(run.status, ready_state), requeue_after=RECHECK)
