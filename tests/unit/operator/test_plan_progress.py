"""The planner when trainers tell of their progress: what becomes of it in status."""

from __future__ import annotations

from typing import Any

from lora_operator.planning.observed import PolledProgress
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import after, failed_text, trained_text
from tests.unit.operator.simulation import TRAIN, TRAIN_2, training


def polled(step: int, at: float, *, pod: str = f"{TRAIN}-2", **fields: Any) -> PolledProgress:
    progress = Progress.model_validate({"phase": Phase.TRAINING, "step": step, "totalSteps": 600} | fields)
    return PolledProgress(progress=progress, time=after(at), pod=pod)


def test_progress_is_folded_in_at_most_every_ten_seconds() -> None:
    world = training()
    world.settle(polled=polled(1, 100))
    assert world.run.status.progress is not None
    assert world.run.status.progress.steps == "1/600"
    world.settle(polled=polled(2, 109))
    assert world.run.status.progress.step == 1
    world.settle(polled=polled(3, 110))
    assert world.run.status.progress.step == 3
    assert world.events[-1] == "Training", "progress is no event"


def test_progress_that_stands_still_is_not_written() -> None:
    world = training()
    world.settle(polled=polled(1, 100))
    before = world.run.status
    assert world.reconcile(polled=polled(1, 200)).status == before


def test_a_resumption_is_counted_once() -> None:
    world = training()
    world.end(TRAIN, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable, step=40))
    world.settle()
    world.pass_time(60)
    world.settle()
    world.start(TRAIN_2)
    for at in (200, 220, 240):
        world.settle(polled=polled(40 + at, at, pod=f"{TRAIN_2}-3", resumedFromStep=30))
    assert world.run.status.resumptions == 1
    assert world.run.status.attempts[-1].from_step == 30


def test_a_resumption_that_was_never_polled_is_counted_too() -> None:
    world = training()
    world.end(TRAIN, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable, step=40))
    world.settle()
    world.pass_time(60)
    world.settle()
    world.end(TRAIN_2, 0, trained_text(from_step=30))
    world.settle()
    assert world.run.status.resumptions == 1
