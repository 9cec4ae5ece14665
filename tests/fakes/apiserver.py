"""An in-process fake of the Kubernetes API server, for the faults that a real one does not produce on demand.

It speaks plain HTTP on 127.0.0.1 and keeps the semantics that an operator leans on: versions, generations,
subresources, selectors, watches that replay, patches, server-side apply, finalizers, owner garbage collection, CRD
schemas. It is not a conformance target: no authentication, RBAC, admission, CEL or conversion. What passes here is
still to be proven on a real cluster.

    async with FakeApiServer(crds=[Path("manifests/crd/lorafinetunes.yaml")], namespaces=["team-a"]) as server:
        server.kubeconfig(tmp_path / "kubeconfig")
        server.create({"apiVersion": ..., "kind": ..., "metadata": {...}, "spec": {...}})
        server.faults.add(Fault(verb="create", resource="jobs", status=500, committed=True))
        await server.wait_for(lambda: server.objects("jobs", "team-a"))
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

import yaml
from aiohttp import web

from . import garbage, patching
from .apply import Manager
from .copying import copied
from .errors import ApiError
from .faults import Fault, Faults, RecordedRequest
from .resources import Obj, ResourceTable, load_crds
from .routes import Routes
from .store import Change, Store
from .watching import WatchHub

T = TypeVar("T")

_TEST = Manager(name="test", operation="Update")
_TEST_STATUS = Manager(name="test", operation="Update", subresource="status")


def _utcnow() -> datetime:
    return datetime.now(UTC)


class FakeApiServer:
    """The server, the faults, the record of requests, and direct access to its state.

    Objects handed out are copies. `kind` arguments are plurals (`jobs`) or keys (`events.events.k8s.io`).
    """

    def __init__(
        self,
        *,
        crds: Sequence[Path | Obj] = (),
        namespaces: Sequence[str] = ("default",),
        clock: Callable[[], datetime] = _utcnow,
        bookmark_interval: float = 5.0,
        rng: random.Random | None = None,
    ) -> None:
        documents = load_crds(crds)
        self.store = Store(resources=ResourceTable(documents), clock=clock, rng=rng)
        self.hub = WatchHub(self.store, bookmark_interval=bookmark_interval)
        self.faults = Faults()
        self.gc_paused = False
        self.routes = Routes(store=self.store, hub=self.hub, faults=self.faults)
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._changed = asyncio.Event()
        self._collecting = False
        self.store.listeners.append(self._on_change)
        for name in namespaces:
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for document in documents:
            self.create(document)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self.routes.handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hub.drop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self.crashes:
            # Otherwise a bug in the fake would pass for one of the faults that clients must bear.
            raise AssertionError(f"the fake API server itself failed: {self.crashes[0]!r}") from self.crashes[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig with one context that points here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}],
            "current-context": "fake",
        }
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    # What clients asked.

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request in order of arrival; `server.requests.clear()` starts a new count."""
        return self.routes.requests

    @property
    def violations(self) -> list[RecordedRequest]:
        """Requests for Secrets: the operator must never make one."""
        return self.routes.violations

    @property
    def crashes(self) -> list[Exception]:
        """Bugs of the fake; leaving the context raises the first one."""
        return self.routes.crashes

    def writes(self, *, user_agent: str = "") -> list[RecordedRequest]:
        """Creates, updates, patches and deletes by clients whose user agent contains the text."""
        return [request for request in self.requests if request.is_write and user_agent in request.user_agent]

    # The state, as a test sees and changes it: without HTTP, faults or records.

    def objects(self, kind: str, namespace: str | None = None) -> list[Obj]:
        return copied(self.store.list_objects(self.store.resources.find(kind), namespace))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Obj | None:
        return copied(self.store.find(self.store.resources.find(kind), namespace, name))

    def get(self, kind: str, name: str, namespace: str | None = None) -> Obj:
        """Raises ApiError 404."""
        return copied(self.store.get(self.store.resources.find(kind), namespace, name))

    def create(self, obj: Obj) -> Obj:
        """Create as a user would; a `status` in `obj` is written as well. Raises ApiError."""
        resource = self.store.resources.of_object(obj)
        metadata = {"namespace": "default"} if resource.namespaced else {}
        body = copied(obj) | {"metadata": metadata | copied(obj["metadata"])}
        created = self.store.create(resource, body, manager=_TEST)
        if resource.has_status and obj.get("status"):
            created = self.store.update(resource, created | {"status": body["status"]}, manager=_TEST_STATUS)
        return copied(created)

    def patch(self, kind: str, name: str, namespace: str | None = None, *, merge: Obj, subresource: str = "") -> Obj:
        """Merge-patch the main resource or /status. Raises ApiError."""
        resource = self.store.resources.find(kind)
        live = self.store.get(resource, namespace, name)
        manager = _TEST_STATUS if subresource == "status" else _TEST
        return copied(self.store.update(resource, patching.merge_patch(live, merge), manager=manager))

    def delete(
        self, kind: str, name: str, namespace: str | None = None, *, propagation: str | None = "Background"
    ) -> None:
        """Delete as `kubectl delete` does, in the background. Raises ApiError."""
        self.store.delete(self.store.resources.find(kind), namespace, name, propagation=propagation)

    async def wait_for(
        self,
        predicate: Callable[[], T],
        *,
        timeout: float = 60.0,  # noqa: ASYNC109 - a failed wait is an assertion with a message, not a bare TimeoutError
        what: str = "",
    ) -> T:
        """The first truthy value of `predicate`, asked again after every change. AssertionError after `timeout` s."""
        try:
            async with asyncio.timeout(timeout):
                while not (value := predicate()):
                    self._changed.clear()
                    # Predicates may look at more than the store (requests, a handler's list): ask now and then as well.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), 0.02)
                return value
        except TimeoutError:
            recent = "\n".join(f"  {r.verb} {r.path} -> {r.status}" for r in self.requests[-10:])
            what = what or "the condition"
            raise AssertionError(f"{what} did not come true in {timeout} s; the last requests:\n{recent}") from None

    # Faults of the server as a whole. Those of single requests: `server.faults.add(Fault(...))`.

    def drop_watches(self, kind: str | None = None) -> None:
        """Cut the watch connections of one resource, or of all."""
        self.hub.drop(self._key(kind))

    def fail_watches(self, kind: str | None = None, *, code: int) -> None:
        """Send an ERROR event (410, 429, 500 ...) down the open watches and end them."""
        self.hub.fail(ApiError(code, "injected fault in the watch stream"), self._key(kind))

    def compact(self) -> None:
        """Forget history: whoever watches from an earlier resourceVersion gets 410."""
        self.store.compact()

    @contextlib.contextmanager
    def watches_down(self, kind: str | None = None) -> Iterator[None]:
        """No watch of this resource lives or can be opened meanwhile; lists still answer."""
        armed = self.faults.add(Fault(verb="watch", resource=self._key(kind), drop_connection=True, count=None))
        self.hub.drop(self._key(kind))
        try:
            yield
        finally:
            self.faults.remove(armed)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Every connection is cut meanwhile, watches included."""
        armed = self.faults.add(Fault(drop_connection=True, count=None))
        self.hub.drop()
        try:
            yield
        finally:
            self.faults.remove(armed)

    def hold_events(self, kind: str) -> AbstractContextManager[None]:
        """Watches deliver late: what happens meanwhile arrives when the block ends."""
        return self.hub.hold(self.store.resources.find(kind).key)

    def lose_events(self, kind: str) -> AbstractContextManager[None]:
        """Watches never deliver what happens meanwhile."""
        return self.hub.lose(self.store.resources.find(kind).key)

    def resume_gc(self) -> None:
        """Collect what came together while `gc_paused` was set."""
        self.gc_paused = False
        self._collect_soon()

    def _key(self, kind: str | None) -> str | None:
        return None if kind is None else self.store.resources.find(kind).key

    def _on_change(self, change: Change) -> None:
        self._changed.set()
        metadata = (change.new or change.old or {}).get("metadata", {})
        if change.new is None or metadata.get("ownerReferences") or metadata.get("deletionTimestamp"):
            self._collect_soon()

    def _collect_soon(self) -> None:
        if not self._collecting and not self.gc_paused:
            self._collecting = True
            # Later, as in a real cluster: the answer to the request that caused this goes out first.
            asyncio.get_running_loop().call_soon(self._collect)

    def _collect(self) -> None:
        try:
            if not self.gc_paused:
                garbage.collect(self.store)
        except Exception as error:
            self.crashes.append(error)
            raise
        finally:
            self._collecting = False
