"""Kopf's watches as the engine feels them: list, watch, reconnect, list again after 410 without telling of deletions.

A model of `kopf._cogs.clients.watching` without Kopf and sockets, which know nothing of leaping time; the component
tests run the real one. Events of one object come in order, those of different objects in any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fakes.errors import ApiError
from tests.fakes.faults import RecordedRequest
from tests.fakes.resources import Target
from tests.fakes.routes import record
from tests.faults.wire import Wire

Obj = dict[str, Any]
Hear = Callable[[Obj], None]

INACTIVITY_SECONDS = 70.0
SERVER_SECONDS = 600
PAUSES = (1, 1, 2, 3, 5, 8)
"""Between tries of a request that fails."""


class WatchBroken(Exception):
    """Kopf ends the process: an ERROR event other than 410, or a request that failed too often."""


@dataclass
class Informer:
    """One kind, heard by one operator."""

    wire: Wire
    target: Target
    selector: str
    hear: Hear
    rng: Random
    deaf: bool = False
    """The connection is dead and nobody noticed: nothing arrives until it is given up."""
    _due: dict[str, float] = field(default_factory=dict)
    """When the newest event of an object is handed out."""

    async def watch_forever(self) -> None:
        """Raises WatchBroken."""
        while True:
            version = await self._list()
            while version is not None:
                version = await self._watch(version)
            await asyncio.sleep(0.1)

    async def _list(self) -> str:
        """Tell of everything that is there; the version of the list."""
        code, body = await self._ask({})
        if code != 200:
            raise WatchBroken(f"list of {self.target.plural}: {code}")
        for item in body["items"]:
            self._tell({"type": None, "object": item})
        return body["metadata"]["resourceVersion"]

    async def _watch(self, version: str) -> str | None:
        """One connection; the version to go on from, or None when it is too old."""
        self.deaf = False
        seen = version
        parameters = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        code, _ = await self._ask(parameters | {"timeoutSeconds": str(SERVER_SECONDS)})
        if code != 200:
            raise WatchBroken(f"watch of {self.target.plural}: {code}")
        request = self._request(parameters | {"timeoutSeconds": str(SERVER_SECONDS)})
        routes = self.wire.network.server.routes
        resource = routes.store.resources.at(self.target)
        assert resource is not None
        error: Obj | None = None

        async def receive(line: bytes) -> None:
            nonlocal seen, error
            if self.deaf or not self.wire.connected:
                return
            inactivity.reschedule(loop.time() + INACTIVITY_SECONDS)
            event = json.loads(line)
            if event["type"] == "ERROR":
                error = event["object"]
                return
            seen = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._tell(event)

        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INACTIVITY_SECONDS) as inactivity:
                await routes.hub.stream(routes.watch_query(request, resource, self.target), receive)
        if error is not None and error["code"] != 410:
            raise WatchBroken(f"watch of {self.target.plural}: {error['code']}")
        return seen if error is None else None

    async def _ask(self, parameters: dict[str, str]) -> tuple[int, Obj]:
        """List, or ask whether a watch may be opened. Kopf tries again where that may help."""
        network, code = self.wire.network, 0
        for pause in (*PAUSES, None):
            await network.travel()
            request = self._request(parameters)
            fault = network.server.faults.take(request)
            reached = network.reachable and self.wire.connected and not (fault and fault.drop_connection)
            code = fault.status if fault is not None and fault.status else 0
            if reached and not code:
                if parameters:
                    return 200, {}
                answer_code, body = network.server.routes.call(request, self.target)
                return answer_code, json.loads(json.dumps(body))
            if pause is None:
                break
            await asyncio.sleep(pause)
        if not code:
            # A connection that cannot be made ends the try, not the process.
            await asyncio.sleep(1)
            return await self._ask(parameters)
        raise WatchBroken(str(ApiError(code, f"{self.target.plural} cannot be listed or watched")))

    def _request(self, parameters: dict[str, str]) -> RecordedRequest:
        query = parameters | ({"labelSelector": self.selector} if self.selector else {})
        return record(self.target, method="GET", path="", query=query, user_agent="kopf", content_type="", body=None)

    def _tell(self, event: Obj) -> None:
        """Hand the event out a little later, after those of the same object."""
        loop, uid = asyncio.get_running_loop(), event["object"]["metadata"]["uid"]
        self._due[uid] = max(loop.time() + self.rng.uniform(0.001, 0.05), self._due.get(uid, 0.0) + 1e-6)
        loop.call_at(self._due[uid], self._hand_out, event)

    def _hand_out(self, event: Obj) -> None:
        if self.wire.alive:
            self.hear(event)
