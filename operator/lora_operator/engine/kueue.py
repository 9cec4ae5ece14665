"""Asks Kueue where the Jobs stand that it holds back, and has their runs reconciled when that changes.

Only Jobs that name a queue and are suspended are asked about, by namespace and by queue, never one by one: without
Kueue nothing is asked. The rights are those of manifests/kueue; without them, or without Kueue's API, nothing is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

from lora_operator.engine.cache import Body, Cache
from lora_operator.engine.observer import Observer
from lora_operator.engine.queue import WorkQueue
from lora_operator.kube.errors import KubeError, Throttled, Unavailable
from lora_operator.kube.gateway import VISIBLE_QUEUES, WORKLOADS, Gateway
from lora_operator.naming import JOB_UID_LABEL
from lora_operator.planning.observed import JobView, QueuePlace

AT_ONCE = 100
"""Jobs in one label selector: it is part of a URL."""
NOT_TAKEN_UP = "nothing yet; if that lasts, it does not run, or the WorkloadPriorityClass of the run does not exist"

log = logging.getLogger(__name__)


async def ask_forever(*, gateway: Gateway, cache: Cache, observer: Observer, queue: WorkQueue, seconds: float) -> None:
    """Ask once in so many seconds. While the API server is in trouble, what was known stays."""
    while True:
        await asyncio.sleep(seconds)
        held = held_back(cache)
        try:
            places = await places_of(held, gateway)
        except KubeError as problem:
            log.debug("no places in queues", extra={"error": str(problem)})
            continue
        before, observer.places = observer.places, places
        jobs = (job for group in held.values() for job in group)
        changed = {job.run_uid for job in jobs if places[job.uid] != before.get(job.uid)}
        for key in cache.keys_of(changed):
            queue.add(key)


def held_back(cache: Cache) -> dict[str, list[JobView]]:
    """The Jobs that Kueue may hold back, by namespace."""
    found: dict[str, list[JobView]] = defaultdict(list)
    for (namespace, _), job in cache.jobs.items():
        if job.suspended and job.queue is not None and not (job.deleting or job.over):
            found[namespace].append(job)
    return found


async def places_of(held: dict[str, list[JobView]], gateway: Gateway) -> dict[str, QueuePlace]:
    """The place of each of the Jobs, by uid. Raises KubeError while the API server is in trouble."""
    places = {}
    for namespace, jobs in held.items():
        reasons = await _reasons(gateway, namespace, [job.uid for job in jobs])
        positions: dict[str, int] = {}
        for name in sorted({job.queue for job in jobs if job.queue is not None}):
            positions |= await _positions(gateway, namespace, name)
        for job in jobs:
            because = "" if reasons is None else reasons.get(job.uid, NOT_TAKEN_UP)
            places[job.uid] = QueuePlace(position=positions.get(job.uid), because=because)
    return places


async def _reasons(gateway: Gateway, namespace: str, jobs: list[str]) -> dict[str, str] | None:
    """Why Kueue has not admitted them, by the Job's uid; None where it cannot be asked."""
    reasons = {}
    try:
        for start in range(0, len(jobs), AT_ONCE):
            selector = f"{JOB_UID_LABEL} in ({','.join(jobs[start : start + AT_ONCE])})"
            async for workload in gateway.list(WORKLOADS, namespace, selector=selector):
                reasons[workload["metadata"]["labels"][JOB_UID_LABEL]] = _reason(workload)
    except (Throttled, Unavailable):
        raise
    except KubeError as problem:  # no such API, or no right to read it
        log.debug("no workloads", extra={"namespace": namespace, "error": str(problem)})
        return None
    return reasons


def _reason(workload: Body) -> str:
    """What the first of its conditions says that is not met."""
    conditions = {entry["type"]: entry for entry in workload.get("status", {}).get("conditions", ())}
    unmet = (conditions.get(kind, {}) for kind in ("QuotaReserved", "Admitted"))
    return next((entry["message"] for entry in unmet if entry.get("status") == "False"), "")


async def _positions(gateway: Gateway, namespace: str, queue: str) -> dict[str, int]:
    """Positions in the LocalQueue from 1, by the Job's uid. Empty where nobody tells: the API is an aggregated one and
    may be away while all others are there."""
    try:
        pending = await gateway.get(VISIBLE_QUEUES, namespace, queue, subresource="pendingworkloads")
    except KubeError as problem:
        log.debug("no positions", extra={"namespace": namespace, "queue": queue, "error": str(problem)})
        return {}
    return {owner["uid"]: item["positionInLocalQueue"] + 1 for item in pending["items"] for owner in _owners(item)}


def _owners(item: Body) -> Iterable[Body]:
    return item["metadata"].get("ownerReferences", ())
