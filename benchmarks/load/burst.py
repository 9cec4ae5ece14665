"""Many objects are applied at once: how long until each has its first Job, and what that took.

Both contestants are driven by the same client in the same way, each on a cluster of its own. Their
pods fit no node, as in a cluster whose accelerators are all taken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.cluster.api import Api, Body
from tests.demo.kubectl import Kubectl

from .usage import Usage, usage

JOBS = "/apis/batch/v1/jobs"
PATIENCE = 1800

Make = Callable[[str, str], tuple[str, Body]]
"""Path and body of one object, by namespace and name."""


@dataclass(frozen=True, kw_only=True)
class Burst:
    """What came of it."""

    objects: int
    seconds: float
    """From the first create to the last object's first Job."""
    cpu_ms: float
    """Processor time per object of all the contestant's processes until then."""
    peak_mib: float
    """Highest resident memory of all the contestant's processes together."""

    @property
    def per_second(self) -> float:
        """Objects that got their first Job, by the second."""
        return self.objects / self.seconds


def namespaces(count: int = 10) -> tuple[str, ...]:
    """The tenants among whom objects are spread."""
    return tuple(f"load-{number}" for number in range(count))


def prepare_namespaces(kubectl: Kubectl) -> None:
    """Make the namespaces."""
    kubectl.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces()))


async def burst(api: Api, make: Make, *, objects: int, pids: Sequence[int]) -> Burst:
    """Create so many objects and wait for their Jobs. Raises TimeoutError."""
    tenants = namespaces()
    already = await api.count(JOBS)
    before = [usage(pid) for pid in pids]
    began = time.monotonic()
    waiting = asyncio.create_task(api.until_count(JOBS, already + objects, seconds=PATIENCE))
    await api.create_all(make(tenants[n % len(tenants)], f"run-{n}") for n in range(objects))
    await waiting
    seconds = time.monotonic() - began
    after = [usage(pid) for pid in pids]
    return Burst(
        objects=objects,
        seconds=seconds,
        cpu_ms=1000 * _cpu(before, after) / objects,
        peak_mib=sum(one.peak_mib for one in after),
    )


def _cpu(before: Sequence[Usage], after: Sequence[Usage]) -> float:
    return sum(late.cpu_seconds - early.cpu_seconds for early, late in zip(before, after, strict=True))
