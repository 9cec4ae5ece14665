"""One operator process in a simulation: the real engine on a wire that can break, with a clock that can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, cast

from kubernetes.aio import client
from lora_operator import naming
from lora_operator.engine.engine import Engine, cancel
from lora_operator.engine.leader import LeaseTiming
from lora_operator.engine.poller import Ask
from lora_operator.handlers import WATCHED, handle
from lora_operator.kube.gateway import Gateway
from lora_operator.metrics import Metrics
from lora_operator.settings import OperatorSettings

from tests.fakes.resources import Target
from tests.faults.informer import Informer
from tests.faults.wire import Death, Network, Wire


class Replica:
    """From its start to its end. A restarted operator is another replica of the same name, with an identity of its
    own."""

    def __init__(
        self,
        *,
        name: str,
        identity: str,
        network: Network,
        clock: Callable[[], datetime],
        ask: Ask,
        rng: Random,
        settings: OperatorSettings,
        timing: LeaseTiming,
    ) -> None:
        self.name = name
        self.skew = timedelta()
        """How far its clock is ahead."""
        self.wire = Wire(network=network, identity=identity)
        self._ask = ask
        loop = asyncio.get_running_loop()
        gateway = Gateway(cast(client.ApiClient, self.wire), record=lambda *_: None)
        self.engine = Engine(
            gateway=gateway,
            settings=settings,
            metrics=Metrics(),
            identity=identity,
            clock=lambda: clock() + self.skew,
            timing=timing,
            monotonic=loop.time,
            asking=self._asking,
        )
        self.informers = [
            Informer(
                wire=self.wire,
                target=Target(group=group, version=version, plural=plural),
                selector="" if group == naming.GROUP else naming.MANAGED_BY_SELECTOR,
                hear=partial(_hear, self.engine, put, drop),
                rng=rng,
            )
            for group, version, plural, put, drop in WATCHED
        ]
        self._watches: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """The process begins."""
        self.engine.start()
        self._watches = [asyncio.create_task(informer.watch_forever()) for informer in self.informers]

    async def stop(self) -> None:
        """SIGTERM: it lets go of the Lease."""
        await self.engine.stop()
        await cancel(self._watches)
        self.wire.alive = False

    async def kill(self) -> None:
        """SIGKILL: nothing more is sent."""
        self.wire.alive = False
        await cancel([*self.engine.tasks, *self._watches])

    def die_at(self, request: int, *, applied: bool, happen: Callable[[], Awaitable[Any]]) -> None:
        """Be killed at the nth request from now."""
        tasks: list[asyncio.Future[Any]] = []
        self.wire.death = Death(request, applied, lambda: tasks.append(asyncio.ensure_future(happen())))

    @property
    def crash(self) -> str | None:
        """Why the process would end by itself, as Kopf ends it when a watch breaks for good; None while it lives."""
        broken = next((task for task in self._watches if task.done()), None)
        return str(broken.exception()) if broken is not None else None

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Ask]:
        with contextlib.nullcontext(self._ask) as ask:
            yield ask


def _hear(engine: Engine, put: Any, drop: Any, event: Any) -> None:
    handle(engine, event, put, drop)
