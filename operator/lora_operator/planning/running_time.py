"""Measures how long the pods of an attempt hold their nodes.

A pod counts from the moment at which it has a node, because it holds its devices from then on. A Job may have several
pods, one after the other: drained and preempted pods are replaced, and a queue may suspend the Job for hours between
two of them."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_operator.api.lorafinetune import Attempt
from lora_operator.naming import Stage
from lora_operator.planning.observed import JobView, PodView

NODE_PATIENCE = timedelta(minutes=5)
"""How long after its grace period a deleted pod may still be there before its node counts as lost."""


def still_running(record: Attempt, job: JobView, *, now: datetime) -> Attempt:
    """The record of an attempt whose Job is not over. Time counts while a pod has a node and has not ended."""
    pod = job.newest_pod
    if pod is not None and _is_recorded(record, pod, job):
        record = followed(record, pod, job)
    if pod is not None and holds_node(pod, now=now):
        return record
    end = _known_end(record, job, now=now)
    return record if end is None else halted(record, end)


def _is_recorded(record: Attempt, pod: PodView, job: JobView) -> bool:
    """Whether the pod is recorded before its attempt ends, which costs a status write: a first train pod once it runs,
    every later pod, and one that another container may keep running."""
    if record.start_time is not None or pod.beside:
        return True
    return pod.started is not None if record.stage is Stage.TRAIN else len(job.first_pods) > 1


def followed(record: Attempt, pod: PodView, job: JobView) -> Attempt:
    """The record with the time of this pod counting from its start. A watch that is behind may show an earlier pod."""
    if pod.scheduled is None or (record.start_time is not None and pod.scheduled <= record.start_time):
        return record
    # The end of the previous pod was not seen. It was gone when this one was created.
    before = halted(record, pod.created)
    waited = pod.scheduled - (before.end_time or job.created)
    return before.model_copy(
        update={
            "start_time": pod.scheduled,
            "end_time": None,
            "node": pod.node,
            "waiting_seconds": (before.waiting_seconds or 0) + max(0, int(waited.total_seconds())),
        }
    )


def halted(record: Attempt, end: datetime) -> Attempt:
    """The record with the time stopped at `end`. It stays stopped until another pod runs."""
    if record.start_time is None or record.end_time is not None:
        return record
    end = max(end, record.start_time)
    seconds = int((end - record.start_time).total_seconds())
    return record.model_copy(update={"end_time": end, "duration_seconds": (record.duration_seconds or 0) + seconds})


def holds_node(pod: PodView, *, now: datetime) -> bool:
    """Whether the pod has a node and, as far as anybody knows, has not ended."""
    return pod.scheduled is not None and ended_at(pod, now=now) is None


def ended_at(pod: PodView, *, now: datetime) -> datetime | None:
    """When the pod's time ended; None while it may run.

    Only the node says when a container ended, and its clock may be wrong. A container cannot start before its pod has a
    node: where the node says so, its clock is behind, by that much at least. And nothing ends later than it is seen to
    have ended. A pod on a lost node has ended, for all that anybody knows, when its grace period was over.
    """
    if pod.termination is not None:
        begun = pod.scheduled or pod.created
        behind = max(begun - (pod.started or begun), timedelta())
        return min(max(pod.termination.finished + behind, begun), now)
    return pod.delete_by if lost(pod, now=now) else None


def lost(pod: PodView, *, now: datetime) -> bool:
    """Whether the pod should have ended long ago: its kubelet does not do or not report it."""
    return pod.delete_by is not None and not pod.over and now >= pod.delete_by + NODE_PATIENCE


def _known_end(record: Attempt, job: JobView, *, now: datetime) -> datetime | None:
    """When the pod whose time counts ended; None without a proof that it did, because a watch may be behind."""
    pod = next((pod for pod in job.first_pods if pod.scheduled == record.start_time), None)
    if pod is not None:
        return ended_at(pod, now=now)
    newest = job.newest_pod
    if newest is not None and record.start_time is not None and newest.created >= record.start_time:
        return newest.created
    return job.suspended_since
