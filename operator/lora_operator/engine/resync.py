"""Lists everything at intervals: watches can lose deletions, which only a full LIST shows."""

from __future__ import annotations

import asyncio
import logging

from lora_operator.engine.cache import Cache, key_of
from lora_operator.engine.queue import WorkQueue
from lora_operator.kube.errors import KubeError
from lora_operator.kube.gateway import CLASSES, JOBS, PODS, RUNS, Gateway
from lora_operator.kube.scope import Scope
from lora_operator.naming import MANAGED_BY_SELECTOR

FIRST_RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


async def resync_forever(
    *, gateway: Gateway, scope: Scope, cache: Cache, queue: WorkQueue, seconds: float, primed: asyncio.Event
) -> None:
    """Resync now and every `seconds`. Sets `primed` when the cache is complete for the first time."""
    while True:
        try:
            await resync(gateway=gateway, scope=scope, cache=cache, queue=queue)
            primed.set()
        except KubeError as problem:
            log.warning("resync failed", extra={"error": str(problem)})
        await asyncio.sleep(seconds if primed.is_set() else FIRST_RETRY_SECONDS)


async def resync(*, gateway: Gateway, scope: Scope, cache: Cache, queue: WorkQueue) -> None:
    """Update the cache from a full LIST, and enqueue every run. Raises KubeError."""
    for resource, selector, store, put in (
        (CLASSES, "", cache.classes, cache.put_class),
        (RUNS, "", cache.runs, cache.put_run),
        (JOBS, MANAGED_BY_SELECTOR, cache.jobs, cache.put_job),
        (PODS, MANAGED_BY_SELECTOR, cache.pods, cache.put_pod),
    ):
        # Objects that are created during the LIST are not in it: remove only those that were known before.
        known = store.versions()
        seen = set()
        for namespace in scope.namespaces(resource):
            async for item in gateway.list(resource, namespace, selector=selector, fields=scope.fields(resource)):
                put(item)
                seen.add(key_of(item))
        for key in known.keys() - seen:
            store.drop(key, version=known[key])
        cache.keep_foreign(resource.kind, seen)
    for record in cache.runs.values():
        queue.add(record.key)
