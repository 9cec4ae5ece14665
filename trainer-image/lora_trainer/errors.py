"""The one exception of the trainer: an ending that a person must hear about. Not for control flow inside a stage."""

from __future__ import annotations

import errno

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import PrepareResult, TrainResult


def first_sentence(text: str) -> str:
    """What a library says first, without its full stop: the part that fits into a sentence of ours."""
    line = next(iter(text.splitlines()), "")
    return line.partition(". ")[0].rstrip(". ")


class TrainerError(Exception):
    """Ends the stage with `code` and tells the user what happened and what to do.

    `message` is a sentence that names the field, file or line; `remedy` one that says what to do about it. Neither may
    hold a secret. `result` is what the stage found all the same, `needed_memory_gib` what a class would have to offer.
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
    """Whether a write failed for want of room. Libraries wrap the system's error and keep its words."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error)


def disk_full() -> TrainerError:
    """The ending of a stage whose scratch volume has no room left."""
    return TrainerError(
        ExitCode.DiskFull,
        "The pod's scratch volume, or the node's disk below it, is full.",
        "Ask the platform team for a class with more scratch (prepare.scratch, train.scratch), or use less data.",
    )
