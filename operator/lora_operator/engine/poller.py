"""Polls train pods for their progress, and enqueues the runs of those that answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
from lora_trainer.contract.progress import PATH, PORT, Progress
from lora_trainer.contract.untrusted import read_untrusted

from lora_operator.engine.cache import Cache
from lora_operator.engine.observer import Clock, Observer
from lora_operator.engine.work_queue import WorkQueue
from lora_operator.metrics import Metrics
from lora_operator.naming import Stage
from lora_operator.planning.observed import PodView
from lora_operator.planning.stuck import answered

CONCURRENCY = 32
MAX_PER_SECOND = 50
"""Polls per second. A status write follows each, which costs the API server more than the poll costs the operator."""
TIMEOUT = aiohttp.ClientTimeout(total=3)
LARGEST_ANSWER = 64 * 1024

Ask = Callable[[PodView], Awaitable[bytes]]
"""A pod's answer to GET /progress. Raises aiohttp.ClientError, TimeoutError or OSError."""
Asking = Callable[[], AbstractAsyncContextManager[Ask]]

log = logging.getLogger(__name__)


@asynccontextmanager
async def asking_by_http() -> AsyncIterator[Ask]:
    """Ask pods over HTTP, by their addresses."""
    async with aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session:

        async def ask(pod: PodView) -> bytes:
            host = f"[{pod.ip}]" if ":" in (pod.ip or "") else pod.ip
            # A pod runs what its tenant says: it must not send the operator's request elsewhere.
            async with session.get(f"http://{host}:{PORT}{PATH}", allow_redirects=False) as response:
                return await response.content.read(LARGEST_ANSWER)

        yield ask


async def poll(
    *,
    cache: Cache,
    observer: Observer,
    queue: WorkQueue,
    clock: Clock,
    metrics: Metrics,
    ask: Ask,
) -> None:
    """Poll every running train pod once. What one of them answers does not keep the others from being polled."""
    gate = asyncio.Semaphore(CONCURRENCY)
    pods = training_pods(cache)
    training = {pod.run for pod in pods}
    observer.polled = {run: answer for run, answer in observer.polled.items() if run in training}
    polls = (_poll(ask, gate, pod, observer, clock) for pod in pods)
    answers = await asyncio.gather(*polls, return_exceptions=True)
    for answer in answers:
        metrics.polls.labels("answered" if answer is True else "failed").inc()
    for key in cache.keys_of({pod.run for pod, answer in zip(pods, answers, strict=True) if answer is True}):
        queue.add(key)
    if (unexpected := next((answer for answer in answers if isinstance(answer, BaseException)), None)) is not None:
        raise unexpected


def pause(cache: Cache, seconds: float) -> float:
    """Time between two polls of all pods: `seconds`, or longer where more than MAX_PER_SECOND would be due."""
    return max(seconds, len(training_pods(cache)) / MAX_PER_SECOND)


def training_pods(cache: Cache) -> tuple[PodView, ...]:
    """Pods that train now; of a run on several nodes only pod 0, which reports for all."""
    jobs = {job.uid for job in cache.jobs.values() if job.stage is Stage.TRAIN and not job.over}
    first = (pod for pod in cache.pods.values() if pod.job_uid in jobs and pod.index == 0)
    return tuple(pod for pod in first if pod.phase == "Running" and pod.ip)


async def _poll(ask: Ask, gate: asyncio.Semaphore, pod: PodView, observer: Observer, clock: Clock) -> bool:
    """Poll one pod and return whether it answered."""
    try:
        async with gate:
            answer = await ask(pod)
        progress = read_untrusted(answer, Progress)
        before = observer.polled.get(pod.run)
        observer.polled[pod.run] = answered(before, progress, pod=pod.name, time=clock())
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as problem:
        # A pod that loads or stops may not answer; the pod's status shows its state.
        log.debug("no progress", extra={"pod": pod.name, "error": type(problem).__name__})
        return False
    return True
