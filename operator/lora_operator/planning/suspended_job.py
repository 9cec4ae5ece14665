"""Describes a run whose Job a queue has suspended."""

from __future__ import annotations

from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import JobView, QueuePlace
from lora_operator.planning.status import ReadyState, RunPhase

EXACT_POSITIONS = 10
ROUNDED_POSITIONS = (10, 20, 50, 100, 200, 500)
"""Every start moves up all Jobs that wait. Beyond EXACT_POSITIONS, status shows the last of these positions that the
Job is behind, which saves a status write per Job and start."""
MAX_BECAUSE = 512


def queued(job: JobView) -> ReadyState:
    """The state of a run whose Job is suspended by a queue, not by the user."""
    parts = (_preempted(job), _where(job), _why(job.place))
    return ReadyState(phase=RunPhase.SUSPENDED, reason=Reason.QUEUED, message=" ".join(filter(None, parts)))


def _preempted(job: JobView) -> str:
    pod = job.newest_pod
    if pod is None or pod.started is None or not pod.active:
        return ""
    return f"The queue preempted pod {pod.name}, which writes a checkpoint and ends."


def shown_position(position: int) -> str:
    """The position, exact near the front."""
    if position <= EXACT_POSITIONS:
        return f"at position {position}"
    return f"after position {max(rounded for rounded in ROUNDED_POSITIONS if rounded < position)}"


def _where(job: JobView) -> str:
    if job.queue is None:
        return f"A queue suspends Job {job.name}. The Job starts when the queue has room."
    position = job.place.position if job.place is not None else None
    shown = f" {shown_position(position)}" if position is not None else ""
    return f"Job {job.name} waits in LocalQueue {job.queue}{shown}. It starts when the queue has room."


def _why(place: QueuePlace | None) -> str:
    if place is None or not place.because:
        return ""
    return f"Kueue says: {place.because[:MAX_BECAUSE].rstrip('.')}."
