"""Which of several operators acts: the holder of a Lease, as client-go's leader election has it.

Own code, as the client library's election hangs on a request that hangs, dies of a broken connection, and keeps the
Lease when it is stopped. Expiry is judged by this process's own monotonic clock since the Lease was last seen to
change, never by comparing the clocks of two machines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lora_operator.kube.errors import KubeError, NotFound
from lora_operator.kube.gateway import LEASES, Gateway
from lora_operator.naming import LEASE_NAME

Body = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LeaseTiming:
    """How fast leadership changes, in seconds. `deadline` must be below `duration`: who cannot renew must have stopped
    acting before another one may begin."""

    duration: float = 15
    """A Lease that has not changed for so long may be taken."""
    deadline: float = 10
    """Who has not renewed for so long acts no more."""
    renew: float = 3
    """Between two renewals."""
    retry: float = 1
    """Between two tries."""


class Leader:
    """This process's part in the election."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        identity: str,
        namespace: str,
        timing: LeaseTiming,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._identity = identity
        self._namespace = namespace
        self._timing = timing
        self._monotonic = monotonic
        self._until = float("-inf")
        self._seen: tuple[str, float] | None = None
        """Version of the Lease, and when this process first saw it."""

    @property
    def leads(self) -> bool:
        """Whether this process may act now."""
        return self._monotonic() < self._until

    async def acquire(self) -> None:
        """Return when this process leads."""
        async for taken in self._tries():
            if taken:
                break
        log.info("leading", extra={"identity": self._identity})

    async def hold(self) -> None:
        """Renew for as long as that goes well. When this returns, this process leads no more."""
        while self.leads:
            await asyncio.sleep(self._timing.renew)
            try:
                async with asyncio.timeout(max(self._until - self._monotonic(), 0)):
                    async for renewed in self._tries():
                        if renewed or not self.leads:
                            break
            except TimeoutError:
                break
        self._until = float("-inf")
        log.warning("leading no more", extra={"identity": self._identity})

    async def release(self) -> None:
        """Let another one lead at once. Nothing may be written after this."""
        if not self.leads:
            return
        self._until = float("-inf")
        try:
            lease = await self._gateway.get(LEASES, self._namespace, LEASE_NAME)
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._gateway.update(LEASES, lease | {"spec": lease["spec"] | {"holderIdentity": ""}})
        except KubeError as problem:
            log.warning("lease not released", extra={"error": str(problem)})

    async def _tries(self) -> AsyncIterator[bool]:
        while True:
            yield await self._try()
            await asyncio.sleep(self._timing.retry)

    async def _try(self) -> bool:
        """Take or renew the Lease, where that may be."""
        began = self._monotonic()
        try:
            lease = await self._gateway.get(LEASES, self._namespace, LEASE_NAME)
            if not self._may_take(lease):
                self._until = float("-inf")
                return False
            await self._gateway.update(LEASES, lease | {"spec": self._spec(lease["spec"])})
        except NotFound:
            if not await self._create():
                return False
        except KubeError as problem:
            log.debug("lease not renewed", extra={"error": str(problem)})
            return False
        self._until = began + self._timing.deadline
        return True

    async def _create(self) -> bool:
        metadata = {"name": LEASE_NAME, "namespace": self._namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": self._spec({})}
        try:
            await self._gateway.create(LEASES, body)
        except KubeError as problem:
            log.warning("lease not created", extra={"error": str(problem)})
            return False
        return True

    def _may_take(self, lease: Body) -> bool:
        version, now = lease["metadata"]["resourceVersion"], self._monotonic()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        holder = lease["spec"].get("holderIdentity")
        return holder in (None, "", self._identity) or now >= self._seen[1] + self._timing.duration

    def _spec(self, before: Body) -> Body:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = before.get("holderIdentity") != self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": now if taken else before["acquireTime"],
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", -1) + taken,
        }
