"""Runs and supervises the tasks: resync while the process lives, workers and pollers while it leads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from lora_operator.engine.cache import Cache
from lora_operator.engine.class_status import SECONDS as CLASS_STATUS_SECONDS
from lora_operator.engine.class_status import write_class_status
from lora_operator.engine.kueue import poll_queues
from lora_operator.engine.leader import Leader, LeaseTiming
from lora_operator.engine.loops import Loop
from lora_operator.engine.observer import Clock, Observer
from lora_operator.engine.poller import Ask, Asking, asking_by_http, pause, poll
from lora_operator.engine.reconciler import NOTHING, Reconciler
from lora_operator.engine.resync import resync
from lora_operator.engine.work_queue import WorkQueue
from lora_operator.kube.errors import Conflict, KubeError
from lora_operator.kube.gateway import Gateway
from lora_operator.kube.store import Key
from lora_operator.metrics import Metrics
from lora_operator.settings import OperatorSettings

log = logging.getLogger(__name__)


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def utc_now() -> datetime:
    """The time in whole seconds, as metav1.Time has it."""
    return datetime.now(UTC).replace(microsecond=0)


class Engine:
    """Reconciles every key that is added to its queue."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        settings: OperatorSettings,
        metrics: Metrics,
        identity: str,
        clock: Clock = utc_now,
        timing: LeaseTiming | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        asking: Asking = asking_by_http,
    ) -> None:
        self.queue = WorkQueue()
        self.cache = Cache(wake=self.enqueue)
        self.metrics = metrics
        self._leader = Leader(
            gateway=gateway,
            identity=identity,
            namespace=settings.namespace,
            timing=timing or LeaseTiming(),
            monotonic=monotonic,
        )
        gateway = gateway.writing_within(lambda: self._leader.seconds_left)
        self._gateway = gateway
        self._settings = settings
        self._clock = clock
        self._asking = asking
        self._primed = asyncio.Event()
        self._observer = Observer(gateway=gateway, cache=self.cache, clock=clock, paused=settings.paused)
        self._reconciler = Reconciler(
            gateway=gateway, cache=self.cache, observer=self._observer, clock=clock, metrics=metrics
        )
        self._loops = (
            Loop(name="resync", work=self._resync, metrics=metrics, pause=lambda: settings.resync_seconds),
            Loop(name="leader", work=self._lead, metrics=metrics),
        )
        self._acting: tuple[Loop, ...] = ()
        """The loops of a process that leads."""
        self._tasks: list[asyncio.Task[None]] = []
        # An operator that does not lead takes nothing out of its queue.
        metrics.queue_depth.set_function(lambda: len(self.queue) if self._leader.leads else 0)
        metrics.count_runs(self.cache.runs_by_reason)
        metrics.foreign_objects.set_function(lambda: len(self.cache.foreign))
        metrics.leader.set_function(lambda: self._leader.leads)

    @property
    def failure(self) -> str | None:
        """Why the engine no longer works, or None while it does. None of its tasks should ever end."""
        ended = next((task for task in self._tasks if task.done()), None)
        if ended is not None:
            return f"task {ended.get_name()} ended: {'cancelled' if ended.cancelled() else ended.exception()!r}"
        return next((loop.broken for loop in (*self._loops, *self._acting) if loop.broken), None)

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """The tasks that run while the process lives."""
        return tuple(self._tasks)

    @property
    def ready(self) -> bool:
        """Whether the cache has been complete once, so that workers may start."""
        return self._primed.is_set()

    def enqueue(self, keys: Iterable[Key]) -> None:
        """Add these runs to the queue."""
        for key in keys:
            self.queue.add(key)

    def start(self) -> None:
        """Start all tasks."""
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self._loops]

    async def stop(self) -> None:
        """Stop all tasks and let another operator lead. The next leader repeats a reconcile that is interrupted."""
        await cancel(self._tasks)
        self._tasks = []
        # A write that is still under way must not meet the next leader.
        await self._gateway.writes_ended()
        await self._leader.release()

    async def _resync(self) -> None:
        await resync(gateway=self._gateway, scope=self._settings.scope, cache=self.cache, queue=self.queue)
        self._primed.set()

    async def _lead(self) -> None:
        """Wait until this process leads, then reconcile as long as it does. Meanwhile it keeps its cache up to date."""
        # In a cache that is not complete yet, existing classes and Jobs would seem to be missing.
        await self._primed.wait()
        await self._leader.acquire()
        # Another operator may have acted on any run since this one led last.
        self.enqueue(record.key for record in self.cache.runs.values())
        async with self._asking() as ask:
            self._acting = self._acting_loops(ask)
            await self._act()

    async def _act(self) -> None:
        acting = [asyncio.create_task(loop.run(), name=loop.name) for loop in self._acting]
        holding = asyncio.create_task(self._leader.hold(), name="lease")
        try:
            ended, _ = await asyncio.wait({holding, *acting}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            await cancel([holding, *acting])

    def _acting_loops(self, ask: Ask) -> tuple[Loop, ...]:
        gateway, cache, observer, queue, clock = self._gateway, self.cache, self._observer, self.queue, self._clock
        settings, metrics = self._settings, self.metrics
        poller = Loop(
            name="poller",
            work=lambda: poll(cache=cache, observer=observer, queue=queue, clock=clock, metrics=metrics, ask=ask),
            metrics=metrics,
            pause=lambda: pause(cache, settings.poll_seconds),
        )
        kueue = Loop(
            name="kueue",
            work=lambda: poll_queues(gateway=gateway, cache=cache, observer=observer, queue=queue),
            metrics=metrics,
            pause=lambda: settings.queue_poll_seconds,
        )
        classes = Loop(
            name="class-status",
            work=lambda: write_class_status(gateway=gateway, cache=cache, clock=clock),
            metrics=metrics,
            pause=lambda: CLASS_STATUS_SECONDS,
        )
        workers = (Loop(name="worker", work=self._work, metrics=metrics) for _ in range(settings.workers))
        if not settings.scope.clusterwide:
            return (poller, kueue, *workers)
        return (poller, kueue, classes, *workers)  # the status of a class counts runs of all namespaces

    async def _work(self) -> None:
        """Reconcile the next run of the queue."""
        await self._reconcile(await self.queue.get())

    async def _reconcile(self, key: Key) -> None:
        """Reconcile a run, measure it and log one line: at INFO where something changed."""
        self.metrics.namespace_seen(key[0])
        began = time.perf_counter()
        result, level, problem, done = "ok", logging.DEBUG, None, NOTHING
        try:
            done = await self._reconciler.reconcile(key)
        except asyncio.CancelledError:
            # The next leader reconciles every run.
            result = "cancelled"
            self.queue.done(key)
            raise
        except Conflict:
            # The cache was behind; the watch will deliver the newer version.
            result = "conflict"
            self.queue.failed(key)
        except KubeError as error:
            result, level, problem = "api_error", logging.WARNING, error
            self.queue.failed(key, retry_after=error.retry_after)
        except Exception as error:
            result, level, problem = "bug", logging.ERROR, error
            self.queue.failed(key)
        else:
            level = logging.INFO if done.actions or done.was != done.now else logging.DEBUG
            self.queue.done(key)
            if done.requeue_after is not None:
                self.queue.add_after(key, max(done.requeue_after.total_seconds(), 0.05))
        finally:
            seconds = time.perf_counter() - began
            self.metrics.reconcile_seconds.labels(result).observe(seconds)
            fields = {"run": "/".join(key), "result": result, "seconds": round(seconds, 4)}
            fields |= {"was": done.was, "is": done.now, "actions": done.actions} if result == "ok" else {}
            fields |= {"error": str(problem)} if problem is not None else {}
            log.log(level, "reconciled", extra=fields, exc_info=problem if result == "bug" else None)
