"""All Kopf handlers. Kopf runs the watches and the process; the handlers only update the cache and enqueue runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import kopf

from lora_operator import naming
from lora_operator.endpoints import Endpoints
from lora_operator.engine.cache import Cache
from lora_operator.engine.engine import Engine, utc_now
from lora_operator.engine.observer import Clock
from lora_operator.engine.served import wait_until_served
from lora_operator.kube.gateway import JOBS, PODS, RUNS, Resource, connect
from lora_operator.kube.scope import Scope
from lora_operator.kube.store import Key
from lora_operator.metrics import Metrics
from lora_operator.settings import OperatorSettings

Body = dict[str, Any]
Update = Callable[[Cache, Body], frozenset[Key]]

SERVER_TIMEOUT = 10 * 60
STOP_WITHIN_SECONDS = 20

WATCHED: tuple[tuple[str, str, str, Update, Update], ...] = (
    (naming.GROUP, naming.VERSION, naming.RUN_PLURAL, Cache.put_run, Cache.drop_run),
    (naming.GROUP, naming.VERSION, naming.CLASS_PLURAL, Cache.put_class, Cache.drop_class),
    ("batch", "v1", "jobs", Cache.put_job, Cache.drop_job),
    ("", "v1", "pods", Cache.put_pod, Cache.drop_pod),
)
"""Group, version and plural of each watched resource, and the cache's methods for its events (present, deleted)."""


def register(registry: kopf.OperatorRegistry, settings: OperatorSettings, *, clock: Clock = utc_now) -> None:
    """Put all handlers into the registry."""
    shell = _Shell(settings, clock)
    kopf.on.login(registry=registry)(log_in)
    kopf.on.startup(registry=registry)(shell.start)
    kopf.on.cleanup(registry=registry)(shell.stop)
    for group, version, plural, put, drop in WATCHED:
        kopf.on.event(group, version, plural, registry=registry, id=f"on-{plural}")(shell.listener(put, drop))


class _Shell:
    """State of the process: the engine and what it needs."""

    def __init__(self, settings: OperatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = AsyncExitStack()
        self.engine: Engine | None = None

    async def start(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        """Configure Kopf, connect, start the engine and the endpoints."""
        configure(settings, self._settings.scope)
        metrics = Metrics()

        def record(verb: str, resource: Resource, code: int) -> None:
            metrics.api_requests.labels(verb, resource.plural, code).inc()

        gateway = await self._stack.enter_async_context(connect(record=record))
        await wait_until_served(gateway)
        self.engine = Engine(gateway=gateway, settings=self._settings, metrics=metrics, clock=self._clock)
        self.engine.start()
        self._stack.push_async_callback(self.engine.stop)
        endpoints = Endpoints(self.engine, port=self._settings.port)
        await endpoints.start()
        self._stack.push_async_callback(endpoints.stop)

    async def stop(self, **_: Any) -> None:
        """Stop in the reverse order."""
        await self._stack.aclose()

    def listener(self, put: Update, drop: Update) -> Callable[..., Awaitable[None]]:
        """The handler of one watch."""

        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            if self.engine is not None:
                handle(self.engine, event, put, drop)

        return on_event


def handle(engine: Engine, event: kopf.RawEvent, put: Update, drop: Update) -> None:
    """Update the cache with an event of a watch, and enqueue the runs that it concerns."""
    update = drop if event["type"] == "DELETED" else put
    engine.enqueue(update(engine.cache, dict(event["object"])))


async def log_in(**context: Any) -> kopf.ConnectionInfo | None:
    """Kopf's own connection: the pod's ServiceAccount or, outside a pod, the kubeconfig."""
    return kopf.login_with_service_account(**context) or kopf.login_with_kubeconfig(**context)


def configure(settings: kopf.OperatorSettings, scope: Scope) -> None:
    """Turn off everything in Kopf that writes: peering, events, annotations, finalizers. Select what it watches."""
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = SERVER_TIMEOUT + 30
    settings.watching.chunk_size = 500
    # How long Kopf keeps an idle queue per object. With its default of 5s, all of a first listing would be in memory.
    settings.queueing.idle_timeout = 0.1
    settings.watching.label_selectors["batch", "v1", "jobs"] = naming.MANAGED_BY_SELECTOR
    settings.watching.label_selectors["v1", "pods"] = naming.MANAGED_BY_SELECTOR
    settings.watching.field_selectors[naming.GROUP, naming.VERSION, naming.RUN_PLURAL] = scope.fields(RUNS)
    settings.watching.field_selectors["batch", "v1", "jobs"] = scope.fields(JOBS)
    settings.watching.field_selectors["v1", "pods"] = scope.fields(PODS)
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = [1, 1, 2, 3, 5, 8]
    settings.process.ultimate_exiting_timeout = STOP_WITHIN_SECONDS
