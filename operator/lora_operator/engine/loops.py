"""Repeats the engine's work. Each repetition stands for itself: one that fails is logged and counted, and the next one
follows after a pause that grows with the failures in a row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from lora_operator.kube.errors import KubeError
from lora_operator.metrics import Metrics

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
BROKEN_AFTER = 20
"""Unexpected errors in a row, some eight minutes, after which a new process is worth a try."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Loop:
    """One kind of work that is repeated for ever."""

    name: str
    work: Callable[[], Awaitable[None]]
    """Does it once. A KubeError means that the API server did not let it."""
    metrics: Metrics
    pause: Callable[[], float] = lambda: 0.0
    """Seconds until the next time after work that succeeded."""
    _failures: int = 0
    _bugs: int = 0
    _last: str = ""

    def __post_init__(self) -> None:
        self.metrics.loop_errors.labels(self.name)

    @property
    def broken(self) -> str | None:
        """Why the loop no longer works, or None while it does. An API server that is away breaks no loop."""
        return (
            f"loop {self.name} failed {self._bugs} times in a row: {self._last}" if self._bugs >= BROKEN_AFTER else None
        )

    async def run(self) -> None:
        """Repeat the work until cancelled."""
        while True:
            pause = await self._once()
            await asyncio.sleep(pause)

    async def _once(self) -> float:
        """Do the work and return the seconds until the next time."""
        retry_after = 0.0
        try:
            await self.work()
        except KubeError as problem:
            self._bugs = 0
            retry_after = problem.retry_after or 0.0
            log.warning("%s failed", self.name, extra={"error": str(problem)})
        except Exception as problem:
            self._bugs += 1
            self._last = repr(problem)
            self.metrics.loop_errors.labels(self.name).inc()
            log.exception("%s raised an unexpected error", self.name)
        else:
            self._failures = self._bugs = 0
            return self.pause()
        self._failures += 1
        return max(min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE), retry_after)


async def each(works: Iterable[Awaitable[None]]) -> None:
    """Do all of these, one after another. The first failure is raised when all have been tried."""
    failures = []
    for work in works:
        try:
            await work
        except Exception as problem:
            failures.append(problem)
    if failures:
        raise failures[0]
