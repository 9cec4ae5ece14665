"""The operator starts beside many runs: how long until it is ready, what it holds, and whether it writes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from tests.demo.kubectl import Kubectl

from . import ours
from .usage import age_seconds, usage

T = TypeVar("T")
PATIENCE = 300
QUIET_LOOKS = 20


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What came of it."""

    runs: int
    ready_seconds: float
    """From the start of its process until /readyz says yes."""
    settled_cpu_seconds: float
    """Processor time until it had given every run its turn."""
    memory_mib: float
    peak_mib: float
    writes: int
    """Requests that changed something; its Lease aside."""


async def restart(kubectl: Kubectl, *, runs: int, session: aiohttp.ClientSession) -> Restart:
    """Stop the operator, start it and watch it until it has nothing more to do. Raises TimeoutError."""
    ours.stop(kubectl)
    ours.start(kubectl, wait=False)
    address = await _until(lambda: _told(ours.address, kubectl))
    await _until(lambda: _ready(session, address))
    # Only now: a container begins with a process of the runtime's.
    pid = ours.pid(kubectl)
    ready_seconds = age_seconds(pid)
    await _until(lambda: _idle(session, address))
    took, done = usage(pid), await ours.metrics(session, address)
    return Restart(
        runs=runs,
        ready_seconds=ready_seconds,
        settled_cpu_seconds=took.cpu_seconds,
        memory_mib=took.memory_mib,
        peak_mib=took.peak_mib,
        writes=done.writes,
    )


async def _until(look: Callable[[], Awaitable[T | None]]) -> T:
    async with asyncio.timeout(PATIENCE):
        while (found := await look()) is None:  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.1)
        return found


async def _told(ask: Callable[[Kubectl], T], kubectl: Kubectl) -> T | None:
    try:
        return await asyncio.to_thread(ask, kubectl)
    except LookupError:
        return None


async def _ready(session: aiohttp.ClientSession, address: str) -> bool | None:
    try:
        async with session.get(f"{address}/readyz") as response:
            return True if response.status == 200 else None
    except aiohttp.ClientError:
        return None


async def _idle(session: aiohttp.ClientSession, address: str) -> bool | None:
    """Whether nobody waits for a turn, and it stays so."""
    for _ in range(QUIET_LOOKS):
        if (await ours.metrics(session, address)).queue:
            return None
        await asyncio.sleep(1)
    return True
