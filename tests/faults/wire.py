"""The way from one operator to the fake API server without sockets: delays, losses, and the operator's death on it.

`Wire` stands in for the client library's ApiClient below `Gateway`; requests and answers still go through JSON. A
request that was sent arrives even when nobody waits for its answer any more, as bytes in a network do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
from lora_operator import naming

from tests.fakes.apiserver import FakeApiServer
from tests.fakes.errors import ApiError
from tests.fakes.faults import Fault, RecordedRequest
from tests.fakes.resources import Target, parse_path
from tests.fakes.routes import record
from tests.faults.audit import Audit

JOBS = "jobs.batch"
LEASES = "leases.coordination.k8s.io"
OPERATOR_NAMESPACE = "lora-operator-system"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the client library hands out."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        return self.body

    def getheaders(self) -> dict[str, str]:
        return self.headers


@dataclass
class Network:
    """What all operators share on their way to the API server."""

    server: FakeApiServer
    audit: Audit
    rng: Random
    reachable: bool = True
    epoch: int = 0
    """Connections live in one epoch; a restart of the API server begins the next."""

    def cut(self) -> None:
        """Every connection breaks; whoever waits for an answer gets none."""
        self.epoch += 1
        self.server.drop_watches()

    async def travel(self) -> None:
        """A message is under way."""
        await asyncio.sleep(self.rng.uniform(0.001, 0.015))


@dataclass
class Death:
    """Where an operator dies: at its nth request from now, elections aside, before or after it took effect."""

    left: int
    applied: bool
    happen: Callable[[], None]


@dataclass
class Wire:
    """One operator's connections."""

    network: Network
    identity: str
    alive: bool = True
    """A dead operator sends nothing more."""
    connected: bool = True
    """A cut-off operator sends and hears nothing."""
    death: Death | None = None
    requests: int = 0
    """Of this operator so far, elections aside."""
    usurpations: list[str] = field(default_factory=list)
    """Writes that took effect while another one held the Lease, and deletions of Jobs that name no uid."""

    async def param_serialize(
        self, *, method: str, resource_path: str, header_params: dict[str, str], body: Any, auth_settings: list[str]
    ) -> tuple[str, str, dict[str, str], Any, None]:
        """Nothing to serialise yet."""
        del auth_settings
        return method, resource_path, header_params, body, None

    async def call_api(
        self, method: str, url: str, headers: dict[str, str], payload: Any, *, _request_timeout: float
    ) -> Answer:
        """Send a request and wait for its answer. Raises aiohttp.ClientError and TimeoutError."""
        path, _, query = url.partition("?")
        target = parse_path(path)
        assert target is not None, path
        request = record(
            target,
            method=method,
            path=path,
            query=dict(parse_qsl(query)),
            user_agent=naming.FIELD_MANAGER,
            content_type=headers["Content-Type"].partition(";")[0],
            body=json.loads(payload if isinstance(payload, str) else json.dumps(payload)),
        )
        if self._dies(request):
            await self._die(request, target)
        if not self.alive:
            raise aiohttp.ClientConnectionError("this operator is dead")
        exchange = asyncio.create_task(self._exchange(request, target))
        async with asyncio.timeout(_request_timeout):
            answer = await asyncio.shield(exchange)
        if answer is None:
            raise aiohttp.ClientConnectionError("connection reset by peer")
        return answer

    def _dies(self, request: RecordedRequest) -> bool:
        if request.resource == LEASES or not self.alive:
            return False
        self.requests += 1
        if self.death is None:
            return False
        self.death.left -= 1
        return self.death.left < 0

    async def _die(self, request: RecordedRequest, target: Target) -> None:
        death, self.death = self.death, None
        assert death is not None
        if death.applied:
            await self._exchange(request, target)
        self.alive = False
        death.happen()
        await asyncio.Event().wait()

    def _watch_authority(self, request: RecordedRequest) -> None:
        store = self.network.server.store
        lease = store.find(store.resources.find(LEASES), OPERATOR_NAMESPACE, naming.LEASE_NAME) or {}
        holder = lease.get("spec", {}).get("holderIdentity", "")
        if request.is_write and request.resource != LEASES and holder not in ("", self.identity):
            self.usurpations.append(f"{self.identity}'s {request.verb} {request.path} took effect while {holder} led")
        if (request.verb, request.resource) == ("delete", JOBS) and "uid" not in _preconditions(request):
            # Between plan and deletion the run may have been deleted and applied again, with a Job of the same name.
            self.usurpations.append(f"{self.identity} deleted {request.path}, whichever Job that is by now")

    async def _exchange(self, request: RecordedRequest, target: Target) -> Answer | None:
        """None where the answer never comes."""
        network, epoch = self.network, self.network.epoch
        fault = network.server.faults.take(request)
        await network.travel()
        if fault is not None and fault.delay:
            await asyncio.sleep(min(fault.delay, request.time_limit))
            if fault.delay > request.time_limit:
                return None  # the API server drops what it has not begun by then
        # Nor does it begin for a client that is gone.
        if not (self.alive and self.connected and network.reachable and network.epoch == epoch):
            return None
        answer = self._arrive(request, target, fault)
        await network.travel()
        return answer if self.connected and network.epoch == epoch else None

    def _arrive(self, request: RecordedRequest, target: Target, fault: Fault | None) -> Answer | None:
        if fault is None or not fault.breaks:
            return self._apply(request, target)
        if fault.committed:
            self._apply(request, target)
        if fault.drop_connection:
            return None
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
        if fault.content is not None:
            return Answer(status=fault.status or 200, body=fault.content.encode(), headers=headers)
        assert fault.status is not None
        error = ApiError(fault.status, "injected fault", reason=fault.reason)
        return Answer(status=error.code, body=json.dumps(error.body()).encode(), headers=headers)

    def _apply(self, request: RecordedRequest, target: Target) -> Answer:
        self._watch_authority(request)
        with self.network.audit.by(self.identity):
            code, body = self.network.server.routes.call(request, target)
        return Answer(status=code, body=json.dumps(body).encode())


def _preconditions(request: RecordedRequest) -> dict[str, Any]:
    return (request.body or {}).get("preconditions", {})
