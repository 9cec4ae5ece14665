"""Decides after each failed attempt of a stage: retry, retry with a smaller micro-batch, or give up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, auto
from typing import assert_never

from lora_trainer.contract.batch import halvings, shrunk_batch
from lora_trainer.contract.exits import SIGNALLED, ExitClass, ExitCode, exit_class
from lora_trainer.contract.outcome import Chosen

from lora_operator.api.lorafinetune import Adjustment, Attempt
from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import PodView, Termination

DISRUPTED = (Reason.DISRUPTED.value, ExitCode.Interrupted.name)
"""Reasons of attempts that ended because a pod was drained, preempted or evicted."""
FIRST_BACK_OFF = timedelta(seconds=10)
LONGEST_BACK_OFF = timedelta(minutes=6)
OOM_KILLED = "OOMKilled"
"""The kubelet's reason for a container that exceeded its memory limit."""
EVICTED = "Evicted"
"""The kubelet's reason for a pod that it evicted."""
OWN_LIMIT = re.compile(r"exceed(s|ed) .*limit")
"""What the kubelet says of a pod that used more disk than its volumes and containers may, on a node that has room."""
BUG_RETRIES = 1
STUCK_RETRIES = 1


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Start another attempt, not before `at`."""

    at: datetime


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """The run fails. `because` is a sentence that says why the operator does not retry."""

    because: str


def attempt_class(attempt: Attempt) -> ExitClass:
    """The exit class of an attempt. Raises ValueError for an attempt that has not ended."""
    match attempt.reason:
        case None:
            raise ValueError(f"{attempt.stage} attempt {attempt.number} has not ended")
        case (
            Reason.SUSPENDED_BY_USER
            | Reason.DEADLINE_EXCEEDED
            | Reason.QUEUE_TIMEOUT
            | Reason.DISRUPTED
            | Reason.RESULT_LOST
        ):
            return ExitClass.INTERRUPTED
        case Reason.NO_PROGRESS:
            return ExitClass.STUCK
        case Reason.POD_LOST | Reason.POD_REJECTED | Reason.JOB_DELETED:
            return ExitClass.INFRASTRUCTURE
        case Reason.OUT_OF_HOST_MEMORY | Reason.OUT_OF_EPHEMERAL_STORAGE | Reason.OUTCOME_MISSING:
            return ExitClass.BUG
        case _:
            return exit_class(attempt.exit_code if attempt.exit_code is not None else 1)


class Explanation(IntEnum):
    """How well the end of one of several pods explains why all ended, best explanation first. When one pod ends, the
    others follow: they exit with PeerLost, or the Job controller deletes them."""

    USER_ERROR = auto()
    OUT_OF_MEMORY = auto()
    OWN_LIMIT = auto()
    DISRUPTED = auto()
    INFRASTRUCTURE = auto()
    KILLED = auto()
    BUG = auto()
    INTERRUPTED = auto()
    PEER_LOST = auto()


def explanation(pod: PodView, termination: Termination) -> Explanation:
    """How well the end of this pod explains the end of all."""
    kind = exit_class(termination.exit_code)
    if kind is ExitClass.USER_ERROR:
        return Explanation.USER_ERROR
    if kind is ExitClass.OUT_OF_MEMORY:
        return Explanation.OUT_OF_MEMORY
    if exceeded_limit(pod, termination) is not None:
        return Explanation.OWN_LIMIT
    if pod.disrupted:
        return Explanation.DISRUPTED
    if termination.exit_code == ExitCode.PeerLost:
        return Explanation.PEER_LOST
    if termination.exit_code > SIGNALLED:
        return Explanation.KILLED
    if kind is ExitClass.INFRASTRUCTURE:
        return Explanation.INFRASTRUCTURE
    return Explanation.INTERRUPTED if kind is ExitClass.INTERRUPTED else Explanation.BUG


def exceeded_limit(pod: PodView, termination: Termination) -> Reason | None:
    """The reason of a pod that was ended because it used more than its own limit."""
    if termination.kubelet_reason == OOM_KILLED:
        return Reason.OUT_OF_HOST_MEMORY
    if pod.reason == EVICTED and OWN_LIMIT.search(pod.message):
        return Reason.OUT_OF_EPHEMERAL_STORAGE
    return None


def pod_that_explains(pods: tuple[PodView, ...]) -> PodView | None:
    """The pod whose end best explains that of the others, independent of the order in which they ended."""
    ended = ((pod, pod.termination) for pod in pods if pod.termination is not None and pod.termination.exit_code != 0)
    best = min(ended, key=lambda end: (explanation(*end), end[0].index), default=None)
    return best[0] if best is not None else None


def decide(
    attempts: tuple[Attempt, ...], *, retry_limit: int, micro_batch: int | None, pause: timedelta, now: datetime
) -> Retry | GiveUp:
    """Decide whether the stage is retried after the last of its attempts.

    `micro_batch` is the one that prepare chose, None before it is known. `pause` is due after a disruption.
    """
    last = attempts[-1]
    kind = attempt_class(last)
    ended = last.end_time or now
    match kind:
        case ExitClass.DONE:
            # The attempt succeeded but its result was never read, because prepare had to be repeated meanwhile.
            return Retry(at=ended)
        case ExitClass.USER_ERROR:
            return GiveUp(because="The same input would fail again, so the operator does not retry it.")
        case ExitClass.INTERRUPTED:
            return Retry(at=ended + pause if last.reason in DISRUPTED else ended)
        case ExitClass.OUT_OF_MEMORY:
            if micro_batch is None or _count(attempts, ExitClass.OUT_OF_MEMORY) > halvings(micro_batch):
                return GiveUp(because="The micro-batch is already one row, so the operator cannot reduce it.")
            return Retry(at=ended)
        case ExitClass.INFRASTRUCTURE:
            failures = _count(attempts, ExitClass.INFRASTRUCTURE)
            if failures > retry_limit:
                return GiveUp(because=f"spec.retryLimit allows {retry_limit} retries, and this was failure {failures}.")
            return Retry(at=ended + back_off(failures))
        case ExitClass.BUG:
            if _count(attempts, ExitClass.BUG) > BUG_RETRIES:
                return GiveUp(because="The operator retries such a failure once, and this was the second.")
            return Retry(at=ended + FIRST_BACK_OFF)
        case ExitClass.STUCK:
            if _count(attempts, ExitClass.STUCK) > STUCK_RETRIES:
                return GiveUp(because="This was the second time, so the operator does not restart it again.")
            return Retry(at=ended)
        case _:
            assert_never(kind)


def adjustments(attempts: tuple[Attempt, ...], chosen: Chosen | None) -> tuple[Adjustment, ...]:
    """The smaller micro-batches after attempts that ran out of memory, derived from their records."""
    if chosen is None:
        return ()
    micro, accumulation = chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps
    failed = [attempt for attempt in attempts if attempt.reason and attempt_class(attempt) is ExitClass.OUT_OF_MEMORY]
    made = []
    for times, attempt in enumerate(failed[: halvings(micro)], start=1):
        smaller, longer = shrunk_batch(micro, accumulation, times=times)
        made.append(
            Adjustment(
                attempt=attempt.number + 1,
                reason=attempt.reason or "",
                per_device_train_batch_size=smaller,
                gradient_accumulation_steps=longer,
            )
        )
    return tuple(made)


def back_off(failures: int) -> timedelta:
    """Pause after the nth failure: 10s, doubling up to 6m."""
    return min(FIRST_BACK_OFF * 2 ** min(failures - 1, 10), LONGEST_BACK_OFF)


def _count(attempts: tuple[Attempt, ...], kind: ExitClass) -> int:
    return sum(1 for attempt in attempts if attempt.reason is not None and attempt_class(attempt) is kind)
