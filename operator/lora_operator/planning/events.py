"""Events of a run: every change of Ready's reason, attempts that failed, and milestones between them.

The reconciler emits them after it has written the status that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

from lora_trainer.contract.exits import ExitCode

from lora_operator.api.conditions import ConditionType, find, is_true
from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.reasons import Reason
from lora_operator.planning.attempts import EndedAttempt
from lora_operator.planning.status import ReadyState, RunPhase, ready_reason


@dataclass(frozen=True, kw_only=True)
class PlannedEvent:
    """An Event on the run, emitted after its status was written."""

    warning: bool
    reason: str
    message: str


def failed_attempts(ended: tuple[EndedAttempt, ...], ready_state: ReadyState) -> tuple[PlannedEvent, ...]:
    """An Event for every attempt that failed, unless the run fails with the same reason."""
    quiet = (ExitCode.Succeeded.name, Reason.SUSPENDED_BY_USER, ready_state.reason)
    return tuple(failed_attempt(item) for item in ended if item.attempt.reason not in quiet)


def failed_attempt(item: EndedAttempt) -> PlannedEvent:
    """An Event for an attempt that failed."""
    return PlannedEvent(
        warning=True,
        reason=item.attempt.reason or Reason.FAILED,
        message=f"{item.attempt.stage.capitalize()} attempt {item.attempt.number}: {item.sentence}",
    )


def milestones(before: LoraFineTuneStatus, after: LoraFineTuneStatus) -> tuple[PlannedEvent, ...]:
    """Events for changes that Ready's reason does not show: data prepared, batch shrunk, training resumed."""
    planned = []
    prepared = find(after.conditions, ConditionType.PREPARED)
    if prepared is not None and prepared.status == "True" and not is_true(before.conditions, ConditionType.PREPARED):
        planned.append(PlannedEvent(warning=False, reason=prepared.reason, message=prepared.message))
    for smaller in after.adjustments[len(before.adjustments) :]:
        message = (
            f"Train attempt {smaller.attempt} uses perDeviceTrainBatchSize {smaller.per_device_train_batch_size} and "
            f"gradientAccumulationSteps {smaller.gradient_accumulation_steps}: the same effective batch, with less "
            "memory."
        )
        planned.append(PlannedEvent(warning=False, reason=Reason.BATCH_SHRUNK, message=message))
    if after.resumptions > before.resumptions:
        record = next(attempt for attempt in reversed(after.attempts) if attempt.from_step is not None)
        message = f"Train attempt {record.number} resumed from the checkpoint of step {record.from_step}."
        planned.append(PlannedEvent(warning=False, reason=Reason.RESUMED, message=message))
    return tuple(planned)


def transition(before: LoraFineTuneStatus, ready_state: ReadyState) -> tuple[PlannedEvent, ...]:
    """An Event for every change of Ready's reason, except to BackingOff: the failed attempt has its own Event."""
    if ready_state.reason in (ready_reason(before), Reason.BACKING_OFF):
        return ()
    warning = ready_state.phase in (RunPhase.FAILED, RunPhase.NEEDS_PERSON) or ready_state.reason in (
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.NO_PROGRESS,
        Reason.OUTPUT_IN_USE,
    )
    return (PlannedEvent(warning=warning, reason=ready_state.reason, message=ready_state.message),)
