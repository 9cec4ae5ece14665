"""Starting the trainer's stages: in a fork of a process that has the libraries already, or in a fresh one.

Where fork servers run, the variable FOLDER_VARIABLE names their folder, for this process and all that it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from tests.support.fork_server import Kind, Start, socket_of

FOLDER_VARIABLE = "LORA_OPERATOR_FORK_SERVERS"
IMPORT_SECONDS = 240
"""Seconds in which a server must have imported the libraries, on processors that others use as well."""
PIPE = subprocess.PIPE
MODULE = "lora_trainer"
LOOK_EVERY = 0.05

Word = str | Path


class Process(Protocol):
    """What tests use of subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


@dataclass(kw_only=True)
class Forked:
    """A process that a fork server has started."""

    server: Path
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(self.server, json.dumps({"poll": self.pid}).encode() + b"\n")
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired([MODULE], timeout or 0)
            time.sleep(LOOK_EVERY)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


@dataclass(kw_only=True)
class ForkServers:
    """The servers of one test session. Each starts when it is first needed."""

    folder: Path
    _running: dict[Kind, subprocess.Popen[bytes]] = field(default_factory=dict)

    def ensure(self, *kinds: Kind) -> None:
        """Start servers, and wait until they listen."""
        for kind in kinds:
            if kind not in self._running:
                command = [sys.executable, "-m", "tests.support.fork_server", kind, self.folder]
                with (self.folder / f"{kind}.log").open("wb") as log:
                    self._running[kind] = subprocess.Popen(command, stdin=PIPE, stdout=log, stderr=subprocess.STDOUT)
        for kind in kinds:
            self._wait(kind)

    def _wait(self, kind: Kind) -> None:
        deadline = time.monotonic() + IMPORT_SECONDS
        while not socket_of(self.folder, kind).exists():
            if self._running[kind].poll() is not None or time.monotonic() > deadline:
                log = (self.folder / f"{kind}.log").read_text(errors="replace")
                raise RuntimeError(f"The fork server {kind} does not listen:\n{log[-4000:]}")
            time.sleep(LOOK_EVERY)

    def end(self) -> None:
        """End them, and whatever they have started."""
        for server in self._running.values():
            if server.stdin is not None:
                server.stdin.close()
            server.wait()


_servers: ForkServers | None = None


@contextlib.contextmanager
def fork_servers(folder: Path) -> Iterator[None]:
    """Have stages forked, for as long as the block lasts."""
    global _servers  # noqa: PLW0603 - one session, one set of servers
    _servers = ForkServers(folder=folder)
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        del os.environ[FOLDER_VARIABLE]
        _servers.end()
        _servers = None


def start(
    arguments: Sequence[Word],
    *,
    kind: Kind | None,
    folder: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> Process:
    """`python -m lora_trainer arguments`, started in `folder`; `kind` None asks for a fresh process."""
    if kind is None or _servers is None:
        command = [sys.executable, "-m", MODULE, *arguments]
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=folder, env=environment)
    # A stage that trains has its adapter verified by a process of the plain kind.
    _servers.ensure(kind, Kind.PLAIN)
    words = tuple(map(str, arguments))
    wanted = Start(module=MODULE, arguments=words, environment=dict(environment), folder=str(folder))
    return _fork(socket_of(_servers.folder, kind), wanted, stdout=stdout, stderr=stderr)


def complete(
    arguments: Sequence[Word], *, kind: Kind | None, environment: Mapping[str, str] = os.environ, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """`python -m lora_trainer arguments`, waited for: its exit code, and what it wrote to both streams."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(arguments, kind=kind, folder=Path.cwd(), environment=environment, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([*arguments], code, stdout=_text(stdout), stderr=_text(stderr))


def run(command: Sequence[Word], *, stdout: int, text: bool, check: bool) -> subprocess.CompletedProcess[str]:
    """subprocess.run, as the trainer calls it to run a stage in a fresh process: here in a fork of the plain kind."""
    server = socket_of(Path(os.environ.get(FOLDER_VARIABLE, "")), Kind.PLAIN)
    if not server.exists():
        return subprocess.run(command, stdout=stdout, text=text, check=check)
    _, _, module, *arguments = map(str, command)
    wanted = Start(module=module, arguments=tuple(arguments), environment=dict(os.environ), folder=str(Path.cwd()))
    with tempfile.TemporaryFile() as told:
        code = _fork(server, wanted, stdout=told, stderr=sys.stderr.buffer).wait()
        return subprocess.CompletedProcess([*command], code, stdout=_text(told))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _fork(server: Path, wanted: Start, *, stdout: IO[bytes], stderr: IO[bytes]) -> Forked:
    with Path(os.devnull).open("rb") as nothing:
        streams = [nothing.fileno(), stdout.fileno(), stderr.fileno()]
        pid = _ask(server, wanted.encode(), streams=streams)
    assert pid is not None
    return Forked(server=server, pid=pid)


def _ask(server: Path, request: bytes, *, streams: Sequence[int] = ()) -> int | None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server))
        sent = socket.send_fds(connection, [request], list(streams)) if streams else 0
        connection.sendall(request[sent:])
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return json.load(answer)
