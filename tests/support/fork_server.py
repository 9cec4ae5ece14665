"""A process that has imported the trainer's libraries and forks for each stage that a test starts.

`python -m tests.support.fork_server KIND FOLDER`, with a pipe as standard input, at whose end it ends. Tests start the
trainer's stages a hundred times, and the import of torch and Unsloth takes 15 seconds of a processor each time. The
product starts fresh processes, and so do the tests of what a fork cannot show.

One request a connection: a line of JSON, with the three standard streams of the new process as file descriptors.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.contract.spec.training import Method
from lora_trainer.libraries import environment, import_libraries

LONGEST_REQUEST = 1 << 20
PR_SET_PDEATHSIG = 1
"""Of prctl(2), from linux/prctl.h."""


class Kind(StrEnum):
    """What the process has imported: the libraries that train by a method, or those that verify and export, which
    Unsloth must not have patched."""

    SFT = "SFT"
    DPO = "DPO"
    GRPO = "GRPO"
    PLAIN = "Plain"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process to start, as `python -m module arguments` would."""

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    """Where it starts."""

    def encode(self) -> bytes:
        """The request."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class Preloaded:
    """What the import has left behind besides modules."""

    scratch: Path
    """The folder of this process's own, which libraries may have noted."""
    variables: Mapping[str, str]
    """Environment variables that libraries have set."""


def socket_of(folder: Path, kind: Kind) -> Path:
    """Where the server of that kind listens."""
    return folder / f"{kind}.sock"


def main(kind: Kind, folder: Path) -> None:
    """Import, listen, fork. Returns in a process that has done what it was forked for, and when nobody needs it."""
    scratch = folder / f"scratch-{kind}"
    scratch.mkdir()
    os.environ.update(environment(kind=AcceleratorKind.CPU, scratch=scratch))
    before = dict(os.environ)
    preload(kind, scratch)
    if (threads := threading.active_count()) > 1:
        raise SystemExit(f"The libraries have started {threads - 1} threads, which a fork would lose.")
    path = socket_of(folder, kind)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_suffix(".draft")))
        listener.listen()
        path.with_suffix(".draft").rename(path)  # whoever finds it may connect
        serve(listener, Preloaded(scratch=scratch, variables=dict(os.environ.items() - before.items())))


def preload(kind: Kind, scratch: Path) -> None:
    """Import what the stages import."""
    if kind is Kind.PLAIN:
        import lora_trainer.publishing.exports
        import lora_trainer.verify
        import peft  # noqa: F401 - the forked stages use it
        import transformers.models.auto.modeling_auto
        import transformers.models.llama.modeling_llama  # noqa: F401 - transformers imports it when it is used
    else:
        import_libraries(scratch=scratch, method=Method(kind))
        import lora_trainer.train
        import lora_trainer.training.other_ranks  # noqa: F401 - the forked processes use it
        from lora_trainer.publishing import new_process

        from tests.support import trainer_process

        new_process.subprocess = trainer_process  # its `run` forks the server of the plain kind  # pyright: ignore


def serve(listener: socket.socket, preloaded: Preloaded) -> None:
    """Answer requests until standard input ends. What was started ends with this process."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        with connection:
            request, streams = receive(connection)
            if "poll" in request:
                connection.sendall(json.dumps(poll(request["poll"])).encode())
                continue
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                become(Start(**request), streams=streams, preloaded=preloaded)
            for stream in streams:
                os.close(stream)
            connection.sendall(json.dumps(pid).encode())


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and the streams that came with it."""
    line, streams, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
    while not line.endswith(b"\n"):
        more = connection.recv(LONGEST_REQUEST)
        assert more, "the request is cut short"
        line += more
    return json.loads(line), streams


def poll(pid: int) -> int | None:
    """The exit code of a process that was forked here, minus the signal's number where one ended it; None while it
    runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)


def become(start: Start, *, streams: list[int], preloaded: Preloaded) -> None:
    """Be the process that was asked for, in a fork of this one. Raises SystemExit at its end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # however the server ends
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.environment)
    tempfile.tempdir = None  # TMPDIR is another
    move(preloaded, own_folder(start.arguments))
    sys.argv = [start.module, *start.arguments]
    runpy.run_module(start.module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def own_folder(arguments: tuple[str, ...]) -> Path:
    """The scratch folder that the stage is given, or else a new one."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if name == "--scratch":
            return Path(value)
        if name.startswith("--scratch="):
            return Path(name.removeprefix("--scratch="))
    return Path(tempfile.mkdtemp())


def move(preloaded: Preloaded, own: Path) -> None:
    """Have every folder that a library noted when it was imported lie in this process's own one."""
    old, new = str(preloaded.scratch), str(own)

    def moved(text: str) -> str:
        return new + text[len(old) :] if text.startswith(old) else text

    os.environ.update({name: moved(value) for name, value in preloaded.variables.items()})
    sys.path[:] = [moved(entry) for entry in sys.path]
    for module in [module for module in sys.modules.values() if module is not None]:
        for name, value in list(vars(module).items()):
            if isinstance(value, str | Path) and str(value).startswith(old):
                setattr(module, name, type(value)(moved(str(value))))


if __name__ == "__main__":
    main(Kind(sys.argv[1]), Path(sys.argv[2]))
