"""Watch streams: replay from a resourceVersion, selectors, bookmarks, and the ways a test can break them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import web

from . import errors
from .errors import ApiError
from .resources import Obj, Resource
from .store import Change, Store


@dataclass(frozen=True, kw_only=True)
class WatchQuery:
    """What one client watches. `revision` None means: first send what exists."""

    resource: Resource
    namespace: str | None
    matches: Callable[[Obj], bool]
    revision: int | None
    bookmarks: bool
    initial_events: bool
    timeout: float | None


Send = Callable[[bytes], Awaitable[None]]
"""Takes one line of a watch stream. Raises ConnectionError when the client is gone."""


@dataclass(kw_only=True, eq=False)
class _Stream:
    query: WatchQuery
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cut: bool = False
    error: ApiError | None = None


@dataclass(frozen=True, kw_only=True)
class _Lost:
    key: str
    first: int
    last: int


class WatchHub:
    """All open watch streams of one server."""

    def __init__(self, store: Store, *, bookmark_interval: float) -> None:
        self._store = store
        self._bookmark_interval = bookmark_interval
        self._streams: dict[_Stream, None] = {}
        self._held: dict[str, int] = {}
        self._lost: list[_Lost] = []
        store.listeners.append(self._on_change)

    def open_streams(self, key: str | None = None) -> int:
        return len(self._of(key))

    def drop(self, key: str | None = None) -> None:
        """Cut the connections, in the middle of a chunk as a dying load balancer would."""
        for stream in self._of(key):
            stream.cut = True
            stream.wake.set()

    def fail(self, error: ApiError, key: str | None = None) -> None:
        """Send an ERROR event and end the stream."""
        for stream in self._of(key):
            stream.error = error
            stream.wake.set()

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Streams stay open but silent meanwhile; what happened is delivered afterwards: a stale informer."""
        self._held[key] = self._store.revision
        try:
            yield
        finally:
            del self._held[key]
            self._wake(key)

    @contextlib.contextmanager
    def lose(self, key: str) -> Iterator[None]:
        """Events of what happens meanwhile are never delivered, not even to a watch that reconnects."""
        first = self._store.revision + 1
        self._lost.append(_Lost(key=key, first=first, last=2**63))
        index = len(self._lost) - 1
        try:
            yield
        finally:
            self._lost[index] = _Lost(key=key, first=first, last=self._store.revision)

    async def serve(self, request: web.Request, query: WatchQuery) -> web.StreamResponse:
        """Answer a watch request until the client leaves, its time is over, or a test breaks it."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            cut = await self.stream(query, response.write)
        except ConnectionError:
            return response
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    async def stream(self, query: WatchQuery, send: Send) -> bool:
        """Send lines until the time of the watch is over or a test breaks it: True when its connection is to be cut."""
        stream = _Stream(query=query)
        self._streams[stream] = None
        try:
            await self._run(send, stream)
        finally:
            del self._streams[stream]
        return stream.cut

    async def _run(self, send: Send, stream: _Stream) -> None:
        query = stream.query
        loop = asyncio.get_running_loop()
        end = loop.time() + query.timeout if query.timeout is not None else None
        if query.revision is not None and query.revision < self._store.compacted:
            await _send(send, "ERROR", errors.expired(query.revision, self._store.compacted).body())
            return
        position = query.revision if query.revision is not None else await self._send_existing(send, query)
        while not stream.cut:
            # Cleared before reading the log, so that a change in mid-send is not slept over.
            stream.wake.clear()
            position = await self._send_changes(send, query, position)
            if stream.error is not None:
                await _send(send, "ERROR", stream.error.body())
                return
            left = end - loop.time() if end is not None else self._bookmark_interval
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stream.wake.wait(), min(left, self._bookmark_interval))
                    continue
            if query.bookmarks:
                await _send(send, "BOOKMARK", _bookmark(query.resource, position))
            if left <= 0:
                return

    async def _send_existing(self, send: Send, query: WatchQuery) -> int:
        position = self._store.revision
        for obj in self._store.list_objects(query.resource, query.namespace):
            if query.matches(obj):
                await _send(send, "ADDED", obj)
        if query.initial_events:
            await _send(send, "BOOKMARK", _bookmark(query.resource, position, initial_events_end=True))
        return position

    async def _send_changes(self, send: Send, query: WatchQuery, position: int) -> int:
        """Send what came after `position`; the new position, which does not pass what is held back."""
        key = query.resource.key
        reachable = min(self._held.get(key, self._store.revision), self._store.revision)
        for change in self._store.changes_since(key, position):
            if change.revision > reachable:
                break
            if not self._is_lost(change):
                await _send_change(send, query, change)
        return max(position, reachable)

    def _is_lost(self, change: Change) -> bool:
        return any(lost.key == change.key and lost.first <= change.revision <= lost.last for lost in self._lost)

    def _of(self, key: str | None) -> list[_Stream]:
        return [stream for stream in self._streams if key in (None, stream.query.resource.key)]

    def _wake(self, key: str) -> None:
        for stream in self._of(key):
            stream.wake.set()

    def _on_change(self, change: Change) -> None:
        self._wake(change.key)


async def _send_change(send: Send, query: WatchQuery, change: Change) -> None:
    """ADDED, MODIFIED or DELETED from the view of this watch: leaving its selector is a deletion."""

    def visible(obj: Obj | None) -> bool:
        in_scope = obj is not None and query.namespace in (None, obj["metadata"].get("namespace"))
        return in_scope and obj is not None and query.matches(obj)

    before, after = visible(change.old), visible(change.new)
    if after:
        await _send(send, "MODIFIED" if before else "ADDED", change.new)
    elif before and change.old is not None:
        metadata = change.old["metadata"] | {"resourceVersion": str(change.revision)}
        await _send(send, "DELETED", change.old | {"metadata": metadata})


async def _send(send: Send, kind: str, obj: Obj | None) -> None:
    await send(json.dumps({"type": kind, "object": obj}).encode() + b"\n")


def _bookmark(resource: Resource, revision: int, *, initial_events_end: bool = False) -> Obj:
    metadata: Obj = {"resourceVersion": str(revision)}
    if initial_events_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
