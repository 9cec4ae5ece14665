"""Asking the components how they are. Only asks; never changes anything."""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT = 3.0


def healthy(address: str, *, ca_file: Path) -> bool:
    """Whether an http(s) address answers 200, or a `unix:<path>` or `tcp:<host>:<port>` accepts."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_TIMEOUT)
                client.connect(address.removeprefix("unix:"))
            return True
        if address.startswith("tcp:"):
            _, host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=_TIMEOUT).close()
            return True
        context = ssl.create_default_context(cafile=str(ca_file)) if address.startswith("https") else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(address, timeout=_TIMEOUT) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError:
            return False
    return True


def dns_answers(name: str, *, server: str) -> bool:
    """Whether the DNS server at `server`:53 has an address for the name."""
    number = secrets.randbits(16)
    labels = b"".join(struct.pack("B", len(label)) + label.encode() for label in name.split("."))
    question = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.connect((server, 53))
            client.send(question)
            reply = client.recv(512)
        except OSError:
            return False
    answered, flags, _, answers = struct.unpack(">HHHH", reply[:8])
    return answered == number and flags & 0x000F == 0 and answers > 0
