"""A real proxy (toxiproxy) on 127.0.0.1 before a server, which can be away, slow, or cut connections as a test asks."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.cluster.settings import HERE, Paths
from tests.cluster.toolchain import GoModule, build
from tests.ports import free_port
from tests.support.object_store import wait_until_open

PROGRAM = "toxiproxy"
MODULE = GoModule(
    name=PROGRAM,
    folder=HERE / "modules/toxiproxy",
    programs={PROGRAM: "github.com/Shopify/toxiproxy/v2/cmd/server"},
)
NAME = "server"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """How to reach the server through the proxy, and how to disturb what passes."""

    address: str
    """host:port of the proxy."""
    _control: str

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut every connection and refuse new ones for as long as the block lasts."""
        self._ask("POST", "", {"enabled": False})
        try:
            yield
        finally:
            self._ask("POST", "", {"enabled": True})

    @contextmanager
    def toxic(
        self, kind: str, *, stream: Literal["upstream", "downstream"] = "downstream", **attributes: int
    ) -> Iterator[None]:
        """Disturb connections for as long as the block lasts; kinds and attributes are toxiproxy's own.

        `upstream` is what clients send, `downstream` what the server answers.
        """
        self._ask("POST", "/toxics", {"name": kind, "type": kind, "stream": stream, "attributes": attributes})
        try:
            yield
        finally:
            self._ask("DELETE", f"/toxics/{kind}")

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> None:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self._control}/proxies/{NAME}{path}", method=method, data=data)
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def proxied(upstream: str, *, folder: Path, host: str = "127.0.0.1") -> Iterator[Proxy]:
    """Run a proxy on `host` before `upstream` (host:port) for as long as the block lasts. `folder` takes its files."""
    program = build(paths=Paths.from_environment(), report=print, modules=(MODULE,))[PROGRAM]
    control, address = free_port(), f"{host}:{free_port(host)}"
    configuration = folder / "toxiproxy.json"
    configuration.write_text(json.dumps([{"name": NAME, "listen": address, "upstream": upstream, "enabled": True}]))
    command = [program, "-host", "127.0.0.1", "-port", str(control), "-config", configuration]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(address, server)
        yield Proxy(address=address, _control=f"http://127.0.0.1:{control}")
    finally:
        server.terminate()
        server.wait(timeout=10)
