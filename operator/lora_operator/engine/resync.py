"""Lists everything at intervals: watches can lose deletions, which only a full LIST shows."""

from __future__ import annotations

from lora_operator.engine.cache import Cache, key_of
from lora_operator.engine.work_queue import WorkQueue
from lora_operator.kube.gateway import CLASSES, JOBS, PODS, RUNS, Gateway
from lora_operator.kube.scope import Scope
from lora_operator.naming import MANAGED_BY_SELECTOR


async def resync(*, gateway: Gateway, scope: Scope, cache: Cache, queue: WorkQueue) -> None:
    """Update the cache from a full LIST, and enqueue every run. Raises KubeError."""
    for resource, selector, store, put, drop in (
        (CLASSES, "", cache.classes, cache.put_class, cache.classes.drop),
        (RUNS, "", cache.runs, cache.put_run, cache.drop_run_at),
        (JOBS, MANAGED_BY_SELECTOR, cache.jobs, cache.put_job, cache.jobs.drop),
        (PODS, MANAGED_BY_SELECTOR, cache.pods, cache.put_pod, cache.pods.drop),
    ):
        # Objects that are created during the LIST are not in it: remove only those that were known before.
        known = store.versions()
        seen = set()
        for namespace in scope.namespaces(resource):
            async for item in gateway.list(resource, namespace, selector=selector, fields=scope.fields(resource)):
                put(item)
                seen.add(key_of(item))
        for key in known.keys() - seen:
            drop(key, version=known[key])
        cache.keep_foreign(resource.kind, seen)
    for record in cache.runs.values():
        queue.add(record.key)
