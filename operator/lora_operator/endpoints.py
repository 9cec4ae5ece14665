"""HTTP for the kubelet and Prometheus: /healthz, /readyz, /metrics."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lora_operator.engine.engine import Engine


class Endpoints:
    """Serves the health, readiness and metrics of the engine."""

    def __init__(self, engine: Engine, *, port: int) -> None:
        self._engine = engine
        self._port = port
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Start listening."""
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        failure = self._engine.failure
        return web.Response(text=failure or "ok", status=500 if failure else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._engine.ready
        return web.Response(text="ok" if ready else "starting", status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._engine.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
