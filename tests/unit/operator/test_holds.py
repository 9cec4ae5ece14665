"""What holds back the next attempt of an accepted run, and leaves one that runs alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import a_class
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, training

ONE_QUEUE: dict[str, Any] = {"allowed": {"queues": ["gpus"], "priorityClasses": ["batch"]}}


def suspended(**spec: Any) -> Simulation:
    """A run that has trained and was suspended."""
    world = training(**spec)
    world.edit(suspend=True)
    world.settle()
    assert world.reason == "SuspendedByUser"
    return world


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"queue_name": "express"}, "spec.queueName express is not allowed by LoraFineTuneClass h100"),
        ({"workload_priority_class_name": "urgent"}, "spec.workloadPriorityClassName urgent is not allowed"),
    ],
)
def test_a_queue_that_was_set_during_suspension_is_held_against_the_class(edit: dict[str, Any], words: str) -> None:
    world = suspended(classes=(a_class(**ONE_QUEUE),))
    world.edit(suspend=False, **edit)
    world.settle()
    assert world.created == [PREPARE, TRAIN]
    assert world.condition("Stalled") == ("True", "PolicyViolation")
    assert world.condition("Running") == ("False", "PolicyViolation")
    assert words in world.message
    assert "can change while spec.suspend is true" in world.message
    world.edit(suspend=True, **dict.fromkeys(edit))
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    world.edit(suspend=False)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_a_job_of_a_suspended_run_is_stopped_whatever_its_queue_is_now() -> None:
    world = training(classes=(a_class(**ONE_QUEUE),))
    world.edit(suspend=True, queue_name="express")
    world.settle()
    assert world.live_train_jobs == []
    assert world.reason == "SuspendedByUser"


@pytest.mark.parametrize(("at_first", "now"), [(["gpus"], ["gpus", "express"]), (["express"], ["gpus"])])
def test_a_begun_run_may_use_what_its_class_allows_now_or_did_at_first(at_first: list[str], now: list[str]) -> None:
    world = suspended(classes=(a_class(allowed={"queues": at_first}),))
    world.classes = (a_class(allowed={"queues": now}),)
    world.edit(suspend=False, queue_name="express")
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
