"""When a train pod that answers counts as stuck: it makes no more steps, although one is due.

A pod that does not answer is not judged here: it may be the network. The kubelet, which is near, ends one that hangs
whole (livenessProbe). Nor is one judged that loads, evaluates, publishes, verifies or exports: only between two steps
does a trainer say how long a step takes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_trainer.contract.progress import Phase, Progress

from lora_operator.planning.observed import JobView, PolledProgress
from lora_operator.planning.progress import short_duration

PATIENCE_STEPS = 20
"""A step that takes so many times the median is not slow but stuck."""
LEAST_PATIENCE = timedelta(minutes=10)
LONGEST_GAP = timedelta(minutes=1)
"""What counts at most between two answers: a pod that was silent, or a clock that jumped, proves nothing."""


def answered(before: PolledProgress | None, progress: Progress, *, pod: str, time: datetime) -> PolledProgress:
    """The answer of a pod, with what the one before tells of its pace."""
    now = PolledProgress(progress=progress, time=time, pod=pod)
    if before is None or _place(before) != _place(now):
        return now
    gap = min(max(time - before.time, timedelta()), LONGEST_GAP)
    return PolledProgress(progress=progress, time=time, pod=pod, unchanged=before.unchanged + gap)


def stuck_sentence(job: JobView, polled: PolledProgress | None) -> str | None:
    """What is to be said where the newest pod of the Job, which `polled` is of, is stuck; None where it is not."""
    pod = job.newest_pod
    if polled is None or pod is None or pod.deleting or pod.termination is not None:
        return None
    progress = polled.progress
    if progress.phase is not Phase.TRAINING or progress.step_seconds is None:
        return None
    if polled.unchanged < max(LEAST_PATIENCE, PATIENCE_STEPS * timedelta(seconds=progress.step_seconds)):
        return None
    waited = short_duration(int(polled.unchanged.total_seconds()))
    return (
        f"Train attempt {job.attempt} (pod {pod.name} on node {pod.node}) has not got beyond step {progress.step} of "
        f"{progress.total_steps} for {waited}, although its steps take {progress.step_seconds:.3g} s."
    )


def _place(polled: PolledProgress) -> tuple[str, Phase, int, bool]:
    progress = polled.progress
    return polled.pod, progress.phase, progress.step, progress.step_seconds is not None
