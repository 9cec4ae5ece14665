"""The running machine: workers, poller and resync as supervised tasks, and the endpoints that tell how it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

from lora_operator.engine.cache import Cache
from lora_operator.engine.observer import Clock, Observer
from lora_operator.engine.poller import poll_forever
from lora_operator.engine.queue import WorkQueue
from lora_operator.engine.reconciler import Reconciler
from lora_operator.engine.resync import resync_forever
from lora_operator.kube.errors import Conflict, KubeError
from lora_operator.kube.gateway import Gateway
from lora_operator.kube.store import Key
from lora_operator.metrics import Metrics
from lora_operator.settings import OperatorSettings

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The time in whole seconds, as metav1.Time has it."""
    return datetime.now(UTC).replace(microsecond=0)


class Engine:
    """Reconciles every key that is added to its queue."""

    def __init__(
        self, *, gateway: Gateway, settings: OperatorSettings, metrics: Metrics, clock: Clock = utc_now
    ) -> None:
        self.cache = Cache()
        self.queue = WorkQueue()
        self.metrics = metrics
        self._gateway = gateway
        self._settings = settings
        self._clock = clock
        self._primed = asyncio.Event()
        self._observer = Observer(gateway=gateway, cache=self.cache, clock=clock)
        self._reconciler = Reconciler(
            gateway=gateway, cache=self.cache, observer=self._observer, clock=clock, metrics=metrics
        )
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_depth.set_function(lambda: len(self.queue))
        metrics.runs.set_function(lambda: len(self.cache.runs))

    @property
    def failure(self) -> str | None:
        """Why the machine stands still, or None while it runs. Its tasks never end by themselves."""
        ended = next((task for task in self._tasks if task.done()), None)
        if ended is None:
            return None
        return f"task {ended.get_name()} ended: {'cancelled' if ended.cancelled() else ended.exception()!r}"

    @property
    def ready(self) -> bool:
        """Whether the cache was complete once, so that the workers work."""
        return self._primed.is_set()

    def enqueue(self, keys: Iterable[Key]) -> None:
        """These runs want a turn."""
        for key in keys:
            self.queue.add(key)

    def start(self) -> None:
        """Start all tasks."""
        for number in range(self._settings.workers):
            self._spawn(f"worker-{number}", self._work())
        self._spawn(
            "poller",
            poll_forever(
                cache=self.cache,
                observer=self._observer,
                queue=self.queue,
                clock=self._clock,
                seconds=self._settings.poll_seconds,
            ),
        )
        self._spawn(
            "resync",
            resync_forever(
                gateway=self._gateway,
                cache=self.cache,
                queue=self.queue,
                seconds=self._settings.resync_seconds,
                primed=self._primed,
            ),
        )

    async def stop(self) -> None:
        """Stop all tasks. A turn that is cut short is made again by whoever comes next."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _work(self) -> None:
        # A half-filled cache would show classes and Jobs as missing that are merely not listed yet.
        await self._primed.wait()
        while True:
            key = await self.queue.get()
            await self._turn(key)

    async def _turn(self, key: Key) -> None:
        began = time.perf_counter()
        result = "ok"
        try:
            after = await self._reconciler.reconcile(key)
        except Conflict:
            # The cache was behind; the event with the newer version is under way.
            result = "conflict"
            self.queue.failed(key)
        except KubeError as problem:
            result = "api_error"
            log.warning("turn failed", extra={"run": "/".join(key), "error": str(problem)})
            self.queue.failed(key, retry_after=problem.retry_after)
        except Exception:
            result = "bug"
            log.exception("turn failed", extra={"run": "/".join(key)})
            self.queue.failed(key)
        else:
            self.queue.done(key)
            if after is not None:
                self.queue.add_after(key, max(after.total_seconds(), 0.05))
        finally:
            self.metrics.reconcile_seconds.labels(result).observe(time.perf_counter() - began)
