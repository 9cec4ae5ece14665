"""The trainer's exception for endings that the user must see. Not for control flow inside a stage."""

from __future__ import annotations

import errno

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import PrepareResult, TrainResult


def first_sentence(text: str) -> str:
    """The first sentence of a library's message without its full stop, to be used inside a message of the trainer."""
    line = next(iter(text.splitlines()), "")
    return line.partition(". ")[0].rstrip(". ")


class TrainerError(Exception):
    """Ends the stage with `code` and tells the user what happened and what to do.

    `message` is a sentence that names the field, file or line; `remedy` says in the imperative what to do. Neither may
    contain a secret. `result` is what the stage found before it failed, `needed_memory_gib` the memory that a class
    must offer.
    """

    def __init__(
        self,
        code: ExitCode,
        message: str,
        remedy: str | None = None,
        *,
        result: PrepareResult | TrainResult | None = None,
        needed_memory_gib: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.result = result
        self.needed_memory_gib = needed_memory_gib


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full. Libraries wrap the system's error and keep its text."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error)


def disk_full() -> TrainerError:
    """The ending of a stage whose scratch volume is full."""
    return TrainerError(
        ExitCode.DiskFull,
        "The pod's scratch volume, or the node's disk below it, is full.",
        "Ask the platform team for a class with more scratch (prepare.scratch, train.scratch), or use less data.",
    )
