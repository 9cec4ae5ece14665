"""Decides when a train pod that answers is stuck: it has made no step for much longer than a step takes.

A pod that does not answer is not judged here, because the network may be the cause. The kubelet kills a trainer that
hangs completely (livenessProbe). A pod that loads, evaluates, publishes, verifies or exports is not judged either: a
trainer reports only between two steps how long a step takes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_trainer.contract.progress import Phase, Progress

from lora_operator.planning.observed import JobView, PolledProgress
from lora_operator.planning.progress import short_duration

PATIENCE_STEPS = 20
"""A step that takes this many times the median is stuck, not slow."""
LEAST_PATIENCE = timedelta(minutes=10)
LONGEST_GAP = timedelta(minutes=1)
"""The most that counts between two answers: a silent pod or a clock that jumped proves nothing."""


def answered(before: PolledProgress | None, progress: Progress, *, pod: str, time: datetime) -> PolledProgress:
    """The answer of a pod, with the time for which its step has not changed."""
    now = PolledProgress(progress=progress, time=time, pod=pod)
    if before is None or _place(before) != _place(now):
        return now
    gap = min(max(time - before.time, timedelta()), LONGEST_GAP)
    return PolledProgress(progress=progress, time=time, pod=pod, unchanged=before.unchanged + gap)


def stuck_sentence(job: JobView, polled: PolledProgress | None) -> str | None:
    """A sentence where the newest pod of the Job is stuck, None where it is not. `polled` is that pod's answer."""
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
        f"Train attempt {job.attempt} (pod {pod.name} on node {pod.node}) has been at step {progress.step} of "
        f"{progress.total_steps} for {waited}, although its steps take {progress.step_seconds:.3g} s."
    )


def _place(polled: PolledProgress) -> tuple[str, Phase, int, bool]:
    progress = polled.progress
    return polled.pod, progress.phase, progress.step, progress.step_seconds is not None
