"""The planner when the user suspends a run and resumes it."""

from __future__ import annotations

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.plan import Delete

from tests.builders import NAME, trained_text
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, preparing, training


def test_a_run_that_is_suspended_from_the_start_takes_nothing() -> None:
    world = preparing(suspend=True)
    assert world.created == []
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    assert world.condition("Reconciling") is None
    world.edit(suspend=False)
    world.settle()
    assert world.created == [PREPARE]
    assert world.condition("Suspended") == ("False", "NotSuspended")


def test_suspend_stops_the_job_and_resume_starts_the_next_attempt() -> None:
    world = training()
    world.slow_deletion = True
    world.edit(suspend=True)
    assert world.reconcile().actions == (), "first it is recorded that the user wanted it"
    plan = world.reconcile()
    assert [action.name for action in plan.actions if isinstance(action, Delete)] == [TRAIN]
    assert (world.reason, world.jobs[TRAIN].deleting) == ("Stopping", True)
    assert world.reconcile().actions == (), "it is asked once"
    world.finish_deletions()
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    assert world.condition("Running") == ("False", "SuspendedByUser")
    world.edit(suspend=False)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
    assert [a.reason for a in world.run.status.attempts] == ["Succeeded", "SuspendedByUser", None]


def test_resume_waits_for_the_job_that_still_stops() -> None:
    world = training()
    world.slow_deletion = True
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert world.reason == "Stopping"
    assert world.created == [PREPARE, TRAIN], "the checkpoint and the accelerator are not free yet"
    world.finish_deletions()
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_suspension_costs_no_retry() -> None:
    world = training(retryLimit=0)
    for attempt in range(1, 6):
        world.edit(suspend=True)
        world.settle()
        world.edit(suspend=False)
        world.settle()
        assert world.created[-1] == f"{NAME}-train-{attempt + 1}"


@pytest.mark.parametrize("survived", range(4))
def test_an_operator_that_dies_while_it_suspends_costs_no_retry_either(survived: int) -> None:
    world = training(retryLimit=0)
    world.edit(suspend=True)
    for _ in range(survived):
        world.reconcile()
    world.reconcile(lose_status=True)
    world.edit(suspend=False)
    world.settle()
    assert world.created == ([PREPARE, TRAIN] if survived == 0 else [PREPARE, TRAIN, TRAIN_2])


def test_suspended_for_ever_the_records_stay_few() -> None:
    world = training()
    for _ in range(80):
        world.edit(suspend=True)
        world.settle()
        world.edit(suspend=False)
        world.settle()
    assert len(world.run.status.attempts) <= 64
    assert world.run.status.attempts[0].stage is Stage.PREPARE
    assert world.run.status.attempts[-1].number == 81


def test_a_run_that_was_done_when_it_was_suspended_is_done() -> None:
    world = training()
    world.end(TRAIN, 0, trained_text())
    world.edit(suspend=True)
    world.settle()
    assert world.reason == "AdapterPublished"
