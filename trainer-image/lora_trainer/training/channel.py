"""Messages between the processes of an attempt during training: at the end of each step, with each checkpoint, and at
the end. Decides nothing."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LONGEST_SILENCE = timedelta(days=1)
"""Between two steps the first process may evaluate, and wait for the bucket."""


class Channel:
    """Messages of the first process to the others at the end of each step. Does nothing where there is one process."""

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

    def hand_over(self, file: Path) -> None:
        """Give the first process this one's file of a checkpoint; other processes than the first do."""
        import torch

        content = file.read_bytes()
        file.unlink()  # the first process of the same node writes it again
        torch.distributed.gather_object((file.name, content), dst=0, group=self._group)

    def collect(self, folder: Path) -> None:
        """Put into `folder` what all processes hand over; the first process does."""
        if self._count > 1:
            import torch

            files: list[tuple[str, bytes] | None] = [None] * self._count
            torch.distributed.gather_object(None, files, dst=0, group=self._group)
            for name, content in filter(None, files):
                (folder / name).write_bytes(content)

    def require_same(self, digest: str) -> None:
        """Raise InternalError, in every process, where they did not all come to the same."""
        if self._count > 1:
            import torch

            digests = [""] * self._count
            torch.distributed.all_gather_object(digests, digest, group=self._group)
            if len(set(digests)) > 1:
                raise TrainerError(
                    ExitCode.InternalError,
                    f"The {self._count} processes of the run ended with different adapters.",
                    "Report it with the pod's log; nothing was published.",
                )

    def close(self) -> None:
        """Leave the group of processes; what follows is for this one alone."""
        if self._count > 1:
            import torch

            torch.distributed.destroy_process_group()

    def _broadcast(self, flags: list[bool]) -> list[bool]:
        import torch

        values = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.broadcast(values, src=0, group=self._group)
        return [bool(value) for value in values]

    @cached_property
    def _group(self) -> ProcessGroup:
        """A separate group on the CPU: an accelerator's would time out while the first process evaluates."""
        import torch

        return cast("ProcessGroup", torch.distributed.new_group(backend="gloo", timeout=LONGEST_SILENCE))
