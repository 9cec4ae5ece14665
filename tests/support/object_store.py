"""A real S3 server (versitygw) on 127.0.0.1 for tests: its own port, folder and credentials, gone at the end."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.settings import Paths
from tests.cluster.toolchain import programs
from tests.ports import free_port

START_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """How to reach the server."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path
    """A folder in here is a bucket."""

    @property
    def environment(self) -> dict[str, str]:
        """Credentials as the trainer's pods get them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


@contextmanager
def object_store(folder: Path, *, buckets: tuple[str, ...]) -> Iterator[ObjectStore]:
    """Run the server for as long as the block lasts."""
    for bucket in buckets:
        (folder / bucket).mkdir(parents=True)
    port = free_port()
    store = ObjectStore(
        endpoint=f"http://127.0.0.1:{port}",
        access_key="test-access-key",
        secret_key=secrets.token_hex(16),
        folder=folder,
    )
    command = [_binary(), "--port", f"127.0.0.1:{port}", "--quiet", "posix", folder]
    environment = {"ROOT_ACCESS_KEY": store.access_key, "ROOT_SECRET_KEY": store.secret_key}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(f"127.0.0.1:{port}", server)
        yield store
    finally:
        server.terminate()
        server.wait(timeout=START_SECONDS)


def _binary() -> Path:
    path = programs(Paths.from_environment())["versitygw"]
    if not path.exists():
        raise RuntimeError("versitygw is not built: run `python -m tests.cluster build` first")
    return path


def wait_until_open(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the program that was started listens at host:port; raises RuntimeError where it does not."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"The server for {address} ended at once with exit code {server.returncode}")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"The server for {address} did not listen within {START_SECONDS} s")
