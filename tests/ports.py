"""Ports for the servers that tests start. A port that a test names may be in use, or have been a moment ago."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Different ports of one of this machine's addresses that were free a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in sockets]


def free_port(host: str = "127.0.0.1") -> int:
    """A port of one of this machine's addresses that was free a moment ago."""
    [port] = free_ports(1, host=host)
    return port
