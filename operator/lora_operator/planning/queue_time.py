"""Measures how long a run waits for others, in line or in a queue, and when that is too long."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.reasons import Reason
from lora_operator.workloads.resolved import ResolvedRun

WAITING = (Reason.QUEUED, Reason.WAITING_FOR_TURN)


def with_queue_time(status: LoraFineTuneStatus, reason: str, *, now: datetime) -> LoraFineTuneStatus:
    """The status of a run that is Ready for this reason, with the time that it waits for others."""
    since, waits = status.queued_since, reason in WAITING
    if waits == (since is not None):
        return status
    if since is None:
        return status.model_copy(update={"queued_since": now})
    seconds = (status.queued_seconds or 0) + max(0, int((now - since).total_seconds()))
    return status.model_copy(update={"queued_since": None, "queued_seconds": seconds})


def patience_left(status: LoraFineTuneStatus, resolved: ResolvedRun, *, now: datetime) -> timedelta | None:
    """How long the run may still wait for others; None without a limit."""
    seconds = resolved.class_spec.limits.max_queue_seconds
    if seconds is None:
        return None
    return (status.queued_since or now) + timedelta(seconds=seconds) - now


def queue_timeout(resolved: ResolvedRun) -> str:
    """What a run is told that has waited for too long."""
    return (
        f"The run waited for longer than the {resolved.class_spec.limits.max_queue_seconds} s that "
        f"limits.maxQueueSeconds of LoraFineTuneClass {resolved.class_name} allows. Create another LoraFineTune when "
        "there is more room, or in another class or queue."
    )
