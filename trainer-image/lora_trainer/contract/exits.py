"""Exit codes of the trainer. The code's class tells the operator what to do; the reason tells the user what
happened."""

from __future__ import annotations

from enum import IntEnum, StrEnum

SIGNALLED = 128
"""Exit codes above this one tell of death by the signal of the number that exceeds it."""
KILLED = "Killed"
"""Reason of death by a signal without a last word."""


class ExitCode(IntEnum):
    """Every way in which prepare and train end. The name is the reason shown in status."""

    Succeeded = 0
    InternalError = 1
    ConfigInvalid = 10
    DatasetInvalid = 11
    DatasetNotFound = 12
    ModelNotFound = 13
    ModelAccessDenied = 14
    ModelUnsupported = 15
    ChatTemplateInvalid = 16
    StorageDenied = 17
    DoesNotFit = 18
    Diverged = 19
    QualityGateFailed = 20
    DatasetAccessDenied = 21
    RewardFailed = 22
    SignatureInvalid = 24
    ExportFailed = 25
    OutOfMemory = 30
    Interrupted = 40
    StorageUnavailable = 50
    HubUnavailable = 51
    GpuUnhealthy = 52
    DiskFull = 53
    ProcessLost = 54
    PeerLost = 55
    """Another pod of the same attempt is gone: what ended that one is the cause."""


class ExitClass(StrEnum):
    """What the operator does about an exit."""

    DONE = "Done"
    USER_ERROR = "UserError"
    """Never retried: the same input fails again."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Retried with half the micro-batch and double the accumulation."""
    INTERRUPTED = "Interrupted"
    """Stopped on request after a committed checkpoint: replaced at no cost."""
    INFRASTRUCTURE = "Infrastructure"
    """Retried with back-off, up to retryLimit."""
    BUG = "Bug"
    """Retried once and reported as what it is."""
    STUCK = "Stuck"
    """No exit code has it: the operator ended a pod that made no progress. Retried once from the last checkpoint."""


def exit_class(code: int) -> ExitClass:
    """The class of any exit code, known or not.

    A code above 128 means death by signal without a last word (evicted, lost node, kill -9): infrastructure.
    """
    if code == ExitCode.Succeeded:
        return ExitClass.DONE
    if 10 <= code <= 29:
        return ExitClass.USER_ERROR
    if code == ExitCode.OutOfMemory:
        return ExitClass.OUT_OF_MEMORY
    if code == ExitCode.Interrupted:
        return ExitClass.INTERRUPTED
    if 50 <= code <= 59 or code > SIGNALLED:
        return ExitClass.INFRASTRUCTURE
    return ExitClass.BUG


def reason(code: int) -> str:
    """CamelCase reason for any exit code, for use where the trainer left no outcome."""
    try:
        return ExitCode(code).name
    except ValueError:
        return KILLED if code > SIGNALLED else ExitCode.InternalError.name
