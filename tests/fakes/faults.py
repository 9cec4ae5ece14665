"""Faults that a test injects into requests, and the record of requests. No HTTP: `routes.py` acts on what matches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(kw_only=True)
class RecordedRequest:
    """One request as it arrived. `verb` is RBAC's; `resource` is the key (`jobs.batch`), "" outside the resource paths.

    `status` is the HTTP status of the answer, None while it is under way or when the connection was dropped.
    """

    verb: str
    method: str
    path: str
    resource: str
    subresource: str
    namespace: str
    name: str
    query: dict[str, str]
    user_agent: str
    content_type: str
    body: Any
    received: float = field(default_factory=time.monotonic)
    status: int | None = None

    @property
    def is_write(self) -> bool:
        return self.verb in _WRITES

    @property
    def time_limit(self) -> float:
        """Seconds within which the server must carry it out; the client's `timeout`, in Go's notation."""
        return float(self.query.get("timeout", "inf").removesuffix("ms")) / 1000

    @property
    def is_apply(self) -> bool:
        return self.content_type == "application/apply-patch+yaml"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and for which requests; a field that is left out matches everything.

    verb: get, list, watch, create, update, patch, delete or deletecollection.
    resource: key or plural; a status write is `lorafinetunes/status`, and the bare name matches main resource only.
    when: further condition on the request.
    after: so many matching requests pass untouched first; count: so many are hit, None for all.
    delay: seconds before anything else happens.
    status: the HTTP status of the answer; retry_after: sent as header, and in the body where it is a number.
    content: what is answered instead of an object, with status 200 unless another one is given.
    drop_connection: the connection is cut without an answer.
    committed: the request takes effect first, and only its answer is lost or replaced.
    """

    verb: str | None = None
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    when: Callable[[RecordedRequest], bool] | None = None
    after: int = 0
    count: int | None = 1
    delay: float = 0.0
    status: int | None = None
    reason: str | None = None
    retry_after: int | str | None = None
    content: str | None = None
    drop_connection: bool = False
    committed: bool = False

    def __post_init__(self) -> None:
        if not self.breaks and not self.delay:
            raise ValueError("a fault needs an effect: status, content, drop_connection or delay")

    @property
    def breaks(self) -> bool:
        """Whether the client gets no true answer; otherwise the answer is only late."""
        return self.drop_connection or self.status is not None or self.content is not None

    def matches(self, request: RecordedRequest) -> bool:
        plural = request.resource.partition(".")[0]
        suffix = f"/{request.subresource}" if request.subresource else ""
        return (
            self.verb in (None, request.verb)
            and self.resource in (None, request.resource + suffix, plural + suffix)
            and self.namespace in (None, request.namespace)
            and self.name in (None, request.name)
            and (self.when is None or self.when(request))
        )


@dataclass
class ArmedFault:
    """A fault that was added, and how often it has matched and hit so far."""

    fault: Fault
    seen: int = 0
    hits: int = 0

    @property
    def exhausted(self) -> bool:
        return self.fault.count is not None and self.hits >= self.fault.count


class Faults:
    """The faults in force; of several that match a request the first added wins."""

    def __init__(self) -> None:
        self._armed: list[ArmedFault] = []

    def add(self, fault: Fault) -> ArmedFault:
        armed = ArmedFault(fault)
        self._armed.append(armed)
        return armed

    def remove(self, armed: ArmedFault) -> None:
        self._armed.remove(armed)

    def clear(self) -> None:
        self._armed.clear()

    def take(self, request: RecordedRequest) -> Fault | None:
        """The fault that hits this request, counted."""
        for armed in self._armed:
            if armed.exhausted or not armed.fault.matches(request):
                continue
            armed.seen += 1
            if armed.seen > armed.fault.after:
                armed.hits += 1
                return armed.fault
        return None
