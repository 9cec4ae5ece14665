"""The processes of one attempt: the pod's own is the first, and starts one more for each further GPU of the node.

They speak torchrun's environment, which torch, accelerate and Unsloth read. It is not torchrun that starts them: that
kills its workers 30 seconds after SIGTERM, in the midst of a checkpoint's upload, and turns their exit codes into 1.
The first process alone shows progress, evaluates, talks to the bucket and writes the last word; the others take steps.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import decode_outcome
from lora_trainer.errors import TrainerError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GRACE_SECONDS = 10
"""How long an error of the first process waits for one of the others, which may be its cause."""
LONGEST_SILENCE = timedelta(days=1)
"""Between two steps the first process may evaluate, and wait for the bucket."""


class Ranks:
    """The further processes, while used as a context manager. None where `count` is 1.

    One that dies ends this process through `leave`, with its last word. Leaving the block ends those that are left.
    """

    def __init__(
        self, *, count: int, arguments: Sequence[str | Path], scratch: Path, leave: Callable[[TrainerError], NoReturn]
    ) -> None:
        """`arguments` are those of `lora_trainer rank` that all share."""
        self._count = count
        self._arguments = arguments
        self._scratch = scratch
        self._leave = leave
        self._closing = False
        self._environment: dict[str, str] = {}
        self._processes: list[subprocess.Popen] = []
        self._watchers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        if self._count > 1:
            self._environment = rank_environment(0, count=self._count, port=_free_port())
            os.environ.update(self._environment)
        for index in range(1, self._count):
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lora_trainer",
                    "rank",
                    *self._arguments,
                    "--termination-log",
                    self._word(index),
                ],
                env=os.environ | {"RANK": str(index), "LOCAL_RANK": str(index)},
                stdin=subprocess.PIPE,  # at whose end it knows that this process is gone
            )
            watcher = threading.Thread(target=self._watch, args=(index, process), name=f"rank-{index}", daemon=True)
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
        for name in self._environment:
            os.environ.pop(name, None)

    def _watch(self, index: int, process: subprocess.Popen) -> None:
        code = process.wait()
        if code != 0 and not self._closing:
            self._leave(self._failure(index, code))

    def _failure(self, index: int, code: int) -> TrainerError:
        word = self._word(index)
        outcome = decode_outcome(word.read_text()) if word.exists() else None
        if outcome is not None and code in set(ExitCode):
            return TrainerError(ExitCode(code), f"{outcome.message} (process {index} of {self._count})", outcome.remedy)
        return TrainerError(
            ExitCode.ProcessLost,
            f"Process {index} of {self._count} ended with code {code} and no explanation.",
            "Read the pod's log; host memory that runs out is the most frequent cause.",
        )

    def _word(self, index: int) -> Path:
        return self._scratch / f"rank-{index}.json"


def rank_environment(index: int, *, count: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    return {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(): a lock held in it aborts the interpreter's own end
        os._exit(ExitCode.InternalError)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def restore_on_numbered_cpus() -> None:
    """Teach torch.load the devices cpu:0, cpu:1, ..., to which transformers restores the optimizer of several processes
    on a CPU, and which torch knows as cpu only."""
    import torch  # noqa: PLC0415 - see model.py

    def restore(storage: Any, location: str) -> Any:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(0, lambda _: None, restore)


class Channel:
    """What the first process tells the others at the end of each step. Says and waits for nothing in one alone."""

    def __init__(self, *, count: int) -> None:
        self._count = count

    def tell(self, *, save: bool, stop: bool) -> None:
        """Say what happens after this step; only the first process does."""
        if self._count > 1:
            self._broadcast([save, stop])

    def hear(self) -> tuple[bool, bool]:
        """What the first process said: (save, stop)."""
        save, stop = self._broadcast([False, False])
        return save, stop

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._count > 1:
            import torch  # noqa: PLC0415 - see model.py

            torch.distributed.barrier(self._group)

    def require_same(self, digest: str) -> None:
        """Raise InternalError, in every process, where they did not all come to the same."""
        if self._count > 1:
            import torch  # noqa: PLC0415 - see model.py

            digests = [""] * self._count
            torch.distributed.all_gather_object(digests, digest, group=self._group)
            if len(set(digests)) > 1:
                raise TrainerError(
                    ExitCode.InternalError,
                    f"The {self._count} processes of the run trained adapters that differ.",
                    "Report it with the pod's log; nothing was published.",
                )

    def close(self) -> None:
        """Leave the group of processes; what follows is for this one alone."""
        if self._count > 1:
            import torch  # noqa: PLC0415 - see model.py

            torch.distributed.destroy_process_group()

    def _broadcast(self, flags: list[bool]) -> list[bool]:
        import torch  # noqa: PLC0415 - see model.py

        values = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.broadcast(values, src=0, group=self._group)
        return [bool(value) for value in values]

    @cached_property
    def _group(self) -> ProcessGroup:
        """A group of its own on the CPU: an accelerator's would time out while the first process evaluates."""
        import torch  # noqa: PLC0415 - see model.py

        return cast("ProcessGroup", torch.distributed.new_group(backend="gloo", timeout=LONGEST_SILENCE))


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
