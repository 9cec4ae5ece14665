"""Every Kopf decorator. Kopf is informer and process shell; bodies tell the cache and enqueue, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import kopf

from lora_operator import naming
from lora_operator.endpoints import Endpoints
from lora_operator.engine.engine import Engine, utc_now
from lora_operator.engine.observer import Clock
from lora_operator.kube.gateway import Resource, connect
from lora_operator.kube.store import Key
from lora_operator.metrics import Metrics
from lora_operator.settings import OperatorSettings

Body = dict[str, Any]
Put = Callable[[Body], frozenset[Key]]

SERVER_TIMEOUT = 10 * 60
STOP_WITHIN_SECONDS = 20


def register(registry: kopf.OperatorRegistry, settings: OperatorSettings, *, clock: Clock = utc_now) -> None:
    """Put all handlers into the registry."""
    shell = _Shell(settings, clock)
    kopf.on.login(registry=registry)(log_in)
    kopf.on.startup(registry=registry)(shell.start)
    kopf.on.cleanup(registry=registry)(shell.stop)
    watch = _watcher(registry, shell)
    watch(naming.GROUP, naming.VERSION, naming.RUN_PLURAL, put="put_run", drop="drop_run")
    watch(naming.GROUP, naming.VERSION, naming.CLASS_PLURAL, put="put_class", drop="drop_class")
    watch("batch", "v1", "jobs", put="put_job", drop="drop_job")
    watch("", "v1", "pods", put="put_pod", drop="drop_pod")


class _Shell:
    """What lives as long as the process does."""

    def __init__(self, settings: OperatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = AsyncExitStack()
        self.engine: Engine | None = None

    async def start(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        """Configure Kopf, connect, start the engine and the endpoints."""
        configure(settings)
        metrics = Metrics()

        def record(verb: str, resource: Resource, code: int) -> None:
            metrics.api_requests.labels(verb, resource.plural, code).inc()

        gateway = await self._stack.enter_async_context(connect(record=record))
        self.engine = Engine(gateway=gateway, settings=self._settings, metrics=metrics, clock=self._clock)
        self.engine.start()
        self._stack.push_async_callback(self.engine.stop)
        endpoints = Endpoints(self.engine, port=self._settings.port)
        await endpoints.start()
        self._stack.push_async_callback(endpoints.stop)

    async def stop(self, **_: Any) -> None:
        """Stop in the reverse order."""
        await self._stack.aclose()


def _watcher(registry: kopf.OperatorRegistry, shell: _Shell) -> Callable[..., None]:
    def watch(group: str, version: str, plural: str, *, put: str, drop: str) -> None:
        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            if shell.engine is None:
                return
            body = dict(event["object"])
            name = drop if event["type"] == "DELETED" else put
            tell: Put = getattr(shell.engine.cache, name)
            shell.engine.enqueue(tell(body))

        kopf.on.event(group, version, plural, registry=registry, id=f"on-{plural}")(on_event)

    return watch


async def log_in(**context: Any) -> kopf.ConnectionInfo | None:
    """Kopf's own connection: the pod's ServiceAccount, or the kubeconfig where there is no pod."""
    return kopf.login_with_service_account(**context) or kopf.login_with_kubeconfig(**context)


def configure(settings: kopf.OperatorSettings) -> None:
    """Kopf without anything that writes: no peering, no events, no annotations, no finalizers."""
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = SERVER_TIMEOUT
    settings.watching.client_timeout = SERVER_TIMEOUT + 30
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["batch", "v1", "jobs"] = naming.MANAGED_BY_SELECTOR
    settings.watching.label_selectors["v1", "pods"] = naming.MANAGED_BY_SELECTOR
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = [1, 1, 2, 3, 5, 8]
    settings.process.ultimate_exiting_timeout = STOP_WITHIN_SECONDS
