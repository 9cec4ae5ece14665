"""Sums over all attempts of a run, also those that were removed from status.attempts."""

from __future__ import annotations

from collections.abc import Iterable

from lora_trainer.contract.exits import ExitClass

from lora_operator.api.lorafinetune import Attempt, AttemptTotals, LoraFineTuneSpec, LoraFineTuneStatus, Usage
from lora_operator.naming import Stage

COUNTED_AS_WORK = (None, ExitClass.DONE, ExitClass.INTERRUPTED)
"""Classes of attempts that have not failed: they ended well, go on, or left a checkpoint."""


def totals(status: LoraFineTuneStatus) -> AttemptTotals:
    """The sums over all attempts. The time of a pod that runs now is not in them."""
    return with_more(status.removed_attempts, status.attempts) or AttemptTotals()


def with_more(before: AttemptTotals | None, attempts: Iterable[Attempt]) -> AttemptTotals | None:
    """The sums over these attempts and those before; None without any."""
    total = before
    for attempt in attempts:
        total = _plus(total or AttemptTotals(), _of(attempt))
    return total


def _plus(one: AttemptTotals, other: AttemptTotals) -> AttemptTotals:
    return AttemptTotals(**{name: getattr(one, name) + getattr(other, name) for name in AttemptTotals.model_fields})


def _of(attempt: Attempt) -> AttemptTotals:
    seconds = attempt.duration_seconds or 0
    training = attempt.stage is Stage.TRAIN
    return AttemptTotals(
        attempts=1,
        prepare_seconds=seconds if attempt.stage is Stage.PREPARE else 0,
        train_seconds=seconds if training else 0,
        failed_train_seconds=seconds if training and attempt.exit_class not in COUNTED_AS_WORK else 0,
        waiting_seconds=attempt.waiting_seconds or 0,
    )


def usage(status: LoraFineTuneStatus, spec: LoraFineTuneSpec, *, has_gpus: bool) -> Usage | None:
    """What the run has used, as far as it is over; None before its first pod has ended."""
    total = totals(status)
    if not (total.prepare_seconds or total.train_seconds or total.waiting_seconds):
        return status.usage
    accelerators = spec.parallelism.processes if has_gpus else 0
    return (status.usage or Usage()).model_copy(
        update={
            "pod_seconds": total.prepare_seconds + total.train_seconds * spec.parallelism.nodes,
            "accelerator_seconds": total.train_seconds * accelerators,
            "failed_accelerator_seconds": total.failed_train_seconds * accelerators,
            "waiting_seconds": total.waiting_seconds,
        }
    )
