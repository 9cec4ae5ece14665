"""What a run is told whose Job a queue holds back."""

from __future__ import annotations

from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import JobView, QueuePlace
from lora_operator.planning.status import ReadyState, RunPhase

TOLD_EXACTLY = 10
TOLD_ROUGHLY = (10, 20, 50, 100, 200, 500)
"""Whoever starts moves up all who wait. Far back in the queue it is not worth a write to each of them."""
MAX_BECAUSE = 512


def queued(job: JobView) -> ReadyState:
    """Where a run stands with a suspended Job that nobody wants suspended but a queue."""
    parts = (_giving_way(job), _where(job), _why(job.place))
    return ReadyState(phase=RunPhase.SUSPENDED, reason=Reason.QUEUED, message=" ".join(filter(None, parts)))


def _giving_way(job: JobView) -> str:
    pod = job.newest_pod
    if pod is None or pod.started is None or not pod.active:
        return ""
    return f"The queue took the place of pod {pod.name} back: it writes a checkpoint and ends."


def _where(job: JobView) -> str:
    if job.queue is None:
        return f"A queue holds Job {job.name} back. It starts when the queue has room."
    position = job.place.position if job.place is not None else None
    return f"Job {job.name} waits in LocalQueue {job.queue}{_told(position)}. It starts when the queue has room."


def _told(position: int | None) -> str:
    if position is None:
        return ""
    if position <= TOLD_EXACTLY:
        return f" at position {position}"
    return f" after position {max(step for step in TOLD_ROUGHLY if step < position)}"


def _why(place: QueuePlace | None) -> str:
    if place is None or not place.because:
        return ""
    return f"Kueue says: {place.because[:MAX_BECAUSE].rstrip('.')}."
