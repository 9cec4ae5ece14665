"""Run a Kopf operator beside a test, in a thread with an event loop of its own.

Not in the test's loop: when Kopf stops, it waits five seconds for every task that it finds in its loop and then cancels
them, the fake API server's among them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import kopf

_PATIENCE = 60.0  # seconds for the operator to start, and to stop; Kopf takes ten after a failure


@asynccontextmanager
async def running_operator(
    *,
    registry: kopf.OperatorRegistry,
    settings: kopf.OperatorSettings,
    memo: Any = None,
    namespaces: Collection[str] = (),
) -> AsyncIterator[asyncio.Task[None]]:
    """The running operator as a task: await it to see it fail. Leaving the block stops it.

    Without namespaces it watches the whole cluster.

    Raises what the operator raised, unless the block has awaited that already.
    """
    ready, stop = threading.Event(), threading.Event()
    # After a failure Kopf sends SIGKILL "to its thread", which is to this whole process, so many seconds later.
    settings.process.ultimate_exiting_timeout = None

    def run() -> None:
        asyncio.run(
            kopf.operator(
                registry=registry,
                settings=settings,
                memo=memo,
                clusterwide=not namespaces,
                namespaces=namespaces,
                ready_flag=ready,
                stop_flag=stop,
            )
        )

    operator = asyncio.create_task(asyncio.to_thread(run), name="operator")
    try:
        if not await asyncio.to_thread(ready.wait, _PATIENCE):
            raise AssertionError(f"the operator did not start in {_PATIENCE} s")
        yield operator
    finally:
        stop.set()
        awaited = operator.done()
        await asyncio.wait({operator}, timeout=_PATIENCE)
        assert operator.done(), f"the operator did not stop in {_PATIENCE} s"
    if not awaited:
        operator.result()
