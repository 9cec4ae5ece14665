"""Plans for a run whose spec or ConfigMap this version of the operator cannot read."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import StoredRun
from lora_operator.api.reasons import Reason
from lora_operator.planning.events import transition
from lora_operator.planning.plan import Plan
from lora_operator.planning.status import ReadyState, RunPhase, StatusDraft, conclude

RECHECK = timedelta(minutes=1)
"""An API server may use the former schema for a moment, and does not report when it switches to the new one."""


def unreadable_plan(run: StoredRun, problem: str, now: datetime) -> Plan:
    """Report the problem; start and stop nothing, because only a person knows what was meant. `problem` is a sentence
    without its full stop."""
    if run.deleting or run.status.terminal:
        return Plan(status=run.status)
    message = (
        f"{problem}. Another version wrote it: install the CRDs and the operator of one release, or delete and "
        "recreate the run."
    )
    draft = StatusDraft(status=run.status, generation=run.generation, now=now)
    draft = draft.set(ConditionType.ACCEPTED, False, reason=Reason.SPEC_INVALID, message=message)
    ready_state = ReadyState(phase=RunPhase.NEEDS_PERSON, reason=Reason.SPEC_INVALID, message=message)
    return Plan(status=conclude(draft, ready_state), events=transition(run.status, ready_state), requeue_after=RECHECK)
