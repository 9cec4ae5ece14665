"""What holds back the next attempt of an accepted run, and leaves one that runs alone."""

from __future__ import annotations

from typing import Any

import pytest
from lora_operator.planning.observed import ClassView
from lora_trainer.contract.exits import ExitCode

from tests.builders import a_class
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, fail_train, training

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


PAUSED = a_class(paused=True)


def test_a_paused_class_starts_nothing_and_resumes() -> None:
    world = Simulation(classes=(PAUSED,))
    world.settle()
    assert world.condition("Accepted") == ("True", "Accepted")
    assert world.condition("Reconciling") == ("True", "ClassPaused")
    assert "paused LoraFineTuneClass h100 (its spec.paused)" in world.message
    assert world.created == []
    world.classes = (a_class(),)
    world.settle()
    assert world.created == [PREPARE]


def test_what_runs_goes_on_in_a_paused_class_and_its_next_attempt_waits() -> None:
    world = training()
    world.classes = (PAUSED,)
    world.settle()
    assert world.reason == "Training"
    fail_train(world, ExitCode.StorageUnavailable)
    assert world.reason == "BackingOff"
    world.pass_time(60)
    world.settle()
    assert (world.reason, world.condition("Running")) == ("ClassPaused", ("False", "ClassPaused"))
    assert world.created == [PREPARE, TRAIN]
    world.classes = (a_class(),)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_a_paused_run_can_be_suspended() -> None:
    world = Simulation(classes=(PAUSED,))
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert world.reason == "SuspendedByUser"


@pytest.mark.parametrize("gone", [(), (a_class(invalid="spec.image: Field required"),)], ids=["gone", "invalid"])
def test_a_class_that_cannot_be_read_holds_nothing_back(gone: tuple[ClassView, ...]) -> None:
    world = suspended()
    world.classes = gone
    world.edit(suspend=False)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_a_paused_operator_starts_nothing_of_any_class() -> None:
    world = Simulation()
    world.settle(paused=True)
    assert world.condition("Reconciling") == ("True", "OperatorPaused")
    assert world.created == []
    world.settle()
    assert world.created == [PREPARE]


@pytest.mark.parametrize(("at_first", "now"), [(["gpus"], ["gpus", "express"]), (["express"], ["gpus"])])
def test_a_begun_run_may_use_what_its_class_allows_now_or_did_at_first(at_first: list[str], now: list[str]) -> None:
    world = suspended(classes=(a_class(allowed={"queues": at_first}),))
    world.classes = (a_class(allowed={"queues": now}),)
    world.edit(suspend=False, queue_name="express")
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
