"""Measures how long the pods of an attempt run.

A Job may have several pods, one after the other: drained and preempted pods are replaced, and a queue may suspend the
Job for hours between two of them."""

from __future__ import annotations

from datetime import datetime

from lora_operator.api.lorafinetune import Attempt
from lora_operator.planning.observed import JobView, PodView


def still_running(record: Attempt, job: JobView) -> Attempt:
    """The record of an attempt whose Job is not over. Time counts while a pod runs."""
    pod = job.newest_pod
    if pod is not None and pod.started is not None and pod.termination is None:
        return followed(record, pod)
    end = _known_end(record, job)
    return record if end is None else halted(record, end)


def followed(record: Attempt, pod: PodView) -> Attempt:
    """The record with the time of this pod counting from its start."""
    if pod.started is None or record.start_time == pod.started:
        return record
    # The end of the previous pod was not seen. It was gone when this one was created.
    return halted(record, pod.created).model_copy(
        update={"start_time": pod.started, "end_time": None, "node": pod.node}
    )


def halted(record: Attempt, end: datetime) -> Attempt:
    """The record with the time stopped at `end`. It stays stopped until another pod runs."""
    if record.start_time is None or record.end_time is not None:
        return record
    seconds = max(0, int((end - record.start_time).total_seconds()))
    return record.model_copy(update={"end_time": end, "duration_seconds": (record.duration_seconds or 0) + seconds})


def _known_end(record: Attempt, job: JobView) -> datetime | None:
    """When the pod whose time counts ended; None without a proof that it did, because a watch may be behind."""
    pod = next((pod for pod in job.first_pods if pod.started == record.start_time), None)
    if pod is not None:
        return pod.termination.finished if pod.termination is not None else None
    newest = job.newest_pod
    if newest is not None and record.start_time is not None and newest.created >= record.start_time:
        return newest.created
    return job.suspended_since
