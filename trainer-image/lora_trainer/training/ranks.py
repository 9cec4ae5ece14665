"""The processes of one attempt on one node: the pod's own is the first, and starts one more for each further GPU.

They use torchrun's environment variables, which torch, accelerate and Unsloth read. torchrun itself does not start
them: it kills its workers 30 seconds after SIGTERM, during a checkpoint's upload, and turns their exit codes into 1.
The first of all processes reports progress, evaluates, and writes to the bucket and the termination message; the others
only take steps."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import decode_outcome
from lora_trainer.errors import TrainerError
from lora_trainer.processes import without_credentials

GRACE_SECONDS = 10
"""How long an error of the first process waits for one of the others, which may be its cause."""


@dataclass(frozen=True, kw_only=True)
class World:
    """All processes of an attempt, where they meet, and which of them this node has."""

    per_node: int
    nodes: int = 1
    node: int = 0
    """This node's number, from 0."""
    host: str = "127.0.0.1"
    """Where the first process is reached."""
    port: int
    """On which it awaits the others."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.nodes * self.per_node

    def rank(self, local: int) -> int:
        """The number among all processes of one that has the number `local` on this node."""
        return self.node * self.per_node + local

    def environment(self, local: int) -> dict[str, str]:
        """What torchrun would set; nothing for a process that is alone."""
        if self.size == 1:
            return {}
        return {
            "RANK": str(self.rank(local)),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.per_node),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }


class Ranks:
    """The further processes of this node, while used as a context manager.

    A process that dies ends this process through `leave`, with its termination message. Leaving the block kills the
    others."""

    def __init__(
        self, world: World, *, arguments: Sequence[str | Path], scratch: Path, leave: Callable[[TrainerError], NoReturn]
    ) -> None:
        """`arguments` are those of `lora_trainer rank` that all share."""
        self._world = world
        self._arguments = arguments
        self._scratch = scratch
        self._leave = leave
        self._closing = False
        self._processes: list[subprocess.Popen] = []
        self._watchers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        os.environ.update(self._world.environment(0))
        for local in range(1, self._world.per_node):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lora_trainer",
                    "rank",
                    *self._arguments,
                    "--termination-log",
                    self._termination_log(local),
                ],
                env=without_credentials() | self._world.environment(local),
                stdin=subprocess.PIPE,  # its end tells the process that this one is gone
            )
            watcher = threading.Thread(target=self._watch, args=(local, process), name=f"rank-{local}", daemon=True)
            watcher.start()
            self._processes.append(process)
            self._watchers.append(watcher)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None and not isinstance(error, TrainerError):
            for watcher in self._watchers:
                watcher.join(GRACE_SECONDS / len(self._watchers))
        self._closing = True
        for process in self._processes:
            process.kill()
            process.wait()
        for name in self._world.environment(0):
            os.environ.pop(name, None)

    def _watch(self, local: int, process: subprocess.Popen) -> None:
        code = process.wait()
        if code != 0 and not self._closing:
            self._leave(self._failure(local, code))

    def _failure(self, local: int, code: int) -> TrainerError:
        log, which = self._termination_log(local), f"{self._world.rank(local)} of {self._world.size}"
        outcome = decode_outcome(log.read_text()) if log.exists() else None
        if outcome is not None and code in set(ExitCode):
            return TrainerError(ExitCode(code), f"{outcome.message} (process {which})", outcome.remedy)
        return TrainerError(
            ExitCode.ProcessLost,
            f"Process {which} exited with code {code} and without a message.",
            "Check the pod's log. The most frequent cause is that host memory ran out.",
        )

    def _termination_log(self, local: int) -> Path:
        return self._scratch / f"rank-{local}.json"


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(): a lock held in it aborts the interpreter's own end
        os._exit(ExitCode.InternalError)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def restore_on_numbered_cpus() -> None:
    """Let torch.load accept the devices cpu:0, cpu:1, ..., to which transformers restores the optimizer of several
    processes on a CPU. torch itself knows only cpu."""
    import torch

    def restore(storage: Any, location: str) -> Any:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(0, lambda _: None, restore)


def free_port() -> int:
    """A free port of this node."""
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
