"""Leader election among several operators with a Lease, following the rules of client-go.

The client library's own election is not used: it hangs when a request hangs, ends when a connection breaks, and keeps
the Lease when it is stopped. Expiry is measured by this process's monotonic clock from when it last saw the Lease
change, never by comparing the clocks of two machines.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
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


def unique_identity() -> str:
    """An identity that no other process has or had: the host name, which in a pod is the pod's name, with a random
    suffix. A second process on this host, or a container that is restarted, must not take this one's Lease for its
    own."""
    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


@dataclass(frozen=True, kw_only=True)
class LeaseTiming:
    """How fast leadership changes, in seconds. `deadline` must be below `duration`: a leader that cannot renew stops
    before another operator may start."""

    duration: float = 15
    """A Lease that has not changed for this long may be taken."""
    deadline: float = 10
    """A leader that has not renewed for this long stops."""
    renew: float = 3
    """Time between two renewals."""
    retry: float = 1
    """Time between two attempts to take or renew the Lease."""


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
        return self.seconds_left > 0

    @property
    def seconds_left(self) -> float:
        """How long this process leads at least, even if it cannot renew the Lease any more."""
        return self._until - self._monotonic()

    async def acquire(self) -> None:
        """Wait until this process leads."""
        async for taken in self._tries():
            if taken:
                break
        log.info("became leader", extra={"identity": self._identity})

    async def hold(self) -> None:
        """Renew the Lease as long as that succeeds. When this returns, this process no longer leads."""
        while self.leads:
            await asyncio.sleep(self._timing.renew)
            try:
                async with asyncio.timeout(max(self.seconds_left, 0)):
                    async for renewed in self._tries():
                        if renewed or not self.leads:
                            break
            except TimeoutError:
                break
        self._until = float("-inf")
        log.warning("lost leadership", extra={"identity": self._identity})

    async def release(self) -> None:
        """Release the Lease, so that another operator can lead at once. Nothing may be written after this."""
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
        """Take or renew the Lease where this is allowed, and return whether this process leads."""
        began = self._monotonic()
        try:
            lease = await self._gateway.get(LEASES, self._namespace, LEASE_NAME)
            if not self._may_take(lease):
                self._until = float("-inf")
                return False
            await self._gateway.update(LEASES, lease | {"spec": self._spec(lease.get("spec") or {})})
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
        holder = (lease.get("spec") or {}).get("holderIdentity")
        return holder in (None, "", self._identity) or now >= self._seen[1] + self._timing.duration

    def _spec(self, before: Body) -> Body:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = before.get("holderIdentity") != self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": now if taken else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", -1) + taken,
        }
