"""Polls Kueue for the queue positions of suspended Jobs, and enqueues their runs when those change.

Sends requests by namespace and by queue, never by Job, and only where Jobs that name a queue are suspended: without
Kueue it sends none. Needs the permissions of manifests/kueue. Without them, or without Kueue's API, positions and
reasons are unknown.
"""

from __future__ import annotations

import logging
from collections import defaultdict

from pydantic import BaseModel, Field

from lora_operator.engine.cache import Cache
from lora_operator.engine.observer import Observer
from lora_operator.engine.work_queue import WorkQueue
from lora_operator.kube.errors import KubeError, Throttled, Unavailable
from lora_operator.kube.gateway import VISIBLE_QUEUES, WORKLOADS, Gateway
from lora_operator.kube.optional import readable
from lora_operator.naming import JOB_UID_LABEL
from lora_operator.planning.observed import JobView, QueuePlace

JOBS_PER_SELECTOR = 100
"""Jobs in one label selector, which is part of a URL."""
NO_WORKLOAD = "nothing yet; if this continues, Kueue is not running, or the run's WorkloadPriorityClass does not exist"

log = logging.getLogger(__name__)


class Condition(BaseModel):
    """A condition of a Workload."""

    type: str
    status: str
    message: str = ""


class WorkloadStatus(BaseModel):
    """The status of a Workload."""

    conditions: tuple[Condition, ...] = ()


class WorkloadMetadata(BaseModel):
    """The metadata of a Workload."""

    labels: dict[str, str] = {}


class Workload(BaseModel):
    """What is read of Kueue's object for a Job."""

    metadata: WorkloadMetadata
    status: WorkloadStatus = WorkloadStatus()


class Owner(BaseModel):
    """The owner of a Workload."""

    uid: str


class PendingMetadata(BaseModel):
    """The metadata of a pending Workload."""

    owners: tuple[Owner, ...] = Field(default=(), alias="ownerReferences")


class PendingWorkload(BaseModel):
    """What is read of a Workload that waits in a LocalQueue."""

    metadata: PendingMetadata
    position: int = Field(alias="positionInLocalQueue", ge=0, lt=2**31)


class PendingWorkloads(BaseModel):
    """The answer of Kueue's visibility API."""

    items: tuple[PendingWorkload, ...] | None = ()


async def poll_queues(*, gateway: Gateway, cache: Cache, observer: Observer, queue: WorkQueue) -> None:
    """Poll once. Raises KubeError while the API server does not answer; the last known places then stay."""
    suspended = queued_jobs(cache)
    places = await places_of(suspended, gateway)
    before, observer.places = observer.places, places
    jobs = (job for group in suspended.values() for job in group)
    changed = {job.run for job in jobs if places[job.uid] != before.get(job.uid)}
    for key in cache.keys_of(changed):
        queue.add(key)


def queued_jobs(cache: Cache) -> dict[str, list[JobView]]:
    """The Jobs that Kueue may have suspended, by namespace."""
    found: dict[str, list[JobView]] = defaultdict(list)
    for (namespace, _), job in cache.jobs.items():
        if job.suspended and job.queue is not None and not (job.deleting or job.over):
            found[namespace].append(job)
    return found


async def places_of(queued: dict[str, list[JobView]], gateway: Gateway) -> dict[str, QueuePlace]:
    """The place of each of the Jobs, by uid. Raises KubeError while the API server does not answer."""
    places = {}
    for namespace, jobs in queued.items():
        reasons = await _reasons(gateway, namespace, [job.uid for job in jobs])
        positions: dict[str, int] = {}
        for name in sorted({job.queue for job in jobs if job.queue is not None}):
            positions |= await _positions(gateway, namespace, name)
        for job in jobs:
            because = "" if reasons is None else reasons.get(job.uid, NO_WORKLOAD)
            places[job.uid] = QueuePlace(position=positions.get(job.uid), because=because)
    return places


async def _reasons(gateway: Gateway, namespace: str, jobs: list[str]) -> dict[str, str] | None:
    """Why Kueue has not admitted the Jobs, by uid; None where its Workloads cannot be read."""
    reasons = {}
    try:
        for start in range(0, len(jobs), JOBS_PER_SELECTOR):
            selector = f"{JOB_UID_LABEL} in ({','.join(jobs[start : start + JOBS_PER_SELECTOR])})"
            async for body in gateway.list(WORKLOADS, namespace, selector=selector):
                if (workload := readable(Workload, body)) is not None:
                    reasons[workload.metadata.labels.get(JOB_UID_LABEL, "")] = _reason(workload)
    except (Throttled, Unavailable):
        raise
    except KubeError as problem:  # no such API, or no permission to read it
        log.debug("workloads unavailable", extra={"namespace": namespace, "error": str(problem)})
        return None
    return reasons


def _reason(workload: Workload) -> str:
    """The message of the Workload's first condition that is not met."""
    unmet = {entry.type: entry.message for entry in workload.status.conditions if entry.status == "False"}
    return next((unmet[kind] for kind in ("QuotaReserved", "Admitted") if kind in unmet), "")


async def _positions(gateway: Gateway, namespace: str, queue: str) -> dict[str, int]:
    """Positions in the LocalQueue from 1, by the Job's uid. Empty where the API does not answer: it is an aggregated
    API and may be unavailable while all others work."""
    try:
        body = await gateway.get(VISIBLE_QUEUES, namespace, queue, subresource="pendingworkloads")
    except KubeError as problem:
        log.debug("positions unavailable", extra={"namespace": namespace, "queue": queue, "error": str(problem)})
        return {}
    pending = readable(PendingWorkloads, body) or PendingWorkloads()
    return {owner.uid: item.position + 1 for item in pending.items or () for owner in item.metadata.owners}
