"""Pods that are drained, preempted or evicted: once costs nothing, again and again in vain needs a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.disruptions import PATIENCE
from lora_operator.planning.observed import PolledProgress
from lora_operator.planning.plan import Delete
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import a_dead_pod, trained_text
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, preparing, train_job, training

LOW = {"disrupted": True, "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}


def evict(world: Simulation, job: str) -> None:
    """The kubelet evicts the pod of a Job, and the Job controller replaces it; the new pod gets a node at once."""
    dead = a_dead_pod(code=137, started=world.now, finished=world.now)
    world.change_pod(job, phase="Failed", termination=dead.termination, **LOW)
    world.pass_time(5)
    world._new_pod(job)
    world.start(job)


def newest_job(world: Simulation) -> str:
    return world.created[-1]


def steps(world: Simulation, step: int) -> PolledProgress:
    pod = world.jobs[newest_job(world)].newest_pod
    assert pod is not None
    shown = Progress(phase=Phase.TRAINING, step=step, total_steps=600, step_seconds=1.0)
    return PolledProgress(progress=shown, time=world.now, pod=pod.name)


def evicted_in_vain(times: int, **spec: Any) -> Simulation:
    world = training(**spec)
    for _ in range(times):
        evict(world, TRAIN)
        world.settle()
    return world


def test_a_few_evictions_in_a_row_are_counted_and_cost_nothing() -> None:
    world = evicted_in_vain(PATIENCE - 1, retryLimit=0)
    assert world.run.status.disruptions is not None
    assert world.run.status.disruptions.wire() == {"count": 4, "inARow": 4, "step": 0}
    assert world.reason == "Training"
    assert world.created == [PREPARE, TRAIN]


def test_many_in_vain_end_the_attempt_and_need_a_person() -> None:
    world = evicted_in_vain(PATIENCE - 1, retryLimit=0)
    evict(world, TRAIN)
    plan = world.reconcile()
    assert (plan.actions, plan.decisive) == ((), True), "first the record is closed"
    plan = world.reconcile()
    assert [action.name for action in plan.actions if isinstance(action, Delete)] == [TRAIN]
    plan = world.reconcile()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")
    assert "5 pods in a row" in world.message
    assert "The node was low on resource: ephemeral-storage" in world.message
    assert plan.requeue_after == timedelta(seconds=10)
    world.pass_time(10)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted"), "until a step is gained"
    record = world.run.status.of(Stage.TRAIN)[0]
    assert (record.reason, record.exit_class) == ("Disrupted", "Interrupted")


def test_the_pauses_grow_and_a_step_gained_heals() -> None:
    world = evicted_in_vain(PATIENCE, retryLimit=0)
    pauses = []
    for number in range(2, 6):
        pause = world.reconcile().requeue_after
        assert pause is not None
        pauses.append(pause.total_seconds())
        world.now += pause
        world.settle()
        assert newest_job(world) == train_job(number)
        world.start(newest_job(world))
        world.settle()
        evict(world, newest_job(world))
        world.settle()
    assert pauses == [10, 20, 40, 80]
    world.pass_time(200)
    world.settle()
    world.start(newest_job(world))
    world.settle()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")
    world.settle(polled=steps(world, 3))
    assert (world.reason, world.condition("Stalled")) == ("Training", None)
    assert world.run.status.disruptions is not None
    assert (world.run.status.disruptions.count, world.run.status.disruptions.in_a_row) == (9, 0)
    world.end(newest_job(world), 0, trained_text())
    world.settle()
    assert world.reason == "AdapterPublished"


def test_evictions_between_which_steps_are_gained_go_on_for_free() -> None:
    world = training(retryLimit=0)
    for number in range(1, 3 * PATIENCE):
        world.pass_time(60)
        world.settle(polled=steps(world, 10 * number))
        evict(world, TRAIN)
        world.settle()
        assert world.reason == "Training"
    assert world.run.status.disruptions is not None
    assert world.run.status.disruptions.count == 3 * PATIENCE - 1
    assert world.created == [PREPARE, TRAIN]


def test_the_same_steps_again_are_no_gain() -> None:
    world = training(retryLimit=0)
    for _ in range(PATIENCE):
        world.pass_time(60)
        world.settle(polled=steps(world, 10))
        evict(world, newest_job(world))
        world.settle()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")


def test_prepare_pods_are_counted_too_once_a_second_one_is_seen() -> None:
    world = preparing(retryLimit=0)
    world.start(PREPARE)
    world.settle()
    for _ in range(PATIENCE + 1):
        evict(world, PREPARE)
        world.settle()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")


def test_queues_that_preempt_in_vain_are_told_too() -> None:
    world = training()
    for _ in range(PATIENCE):
        world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=True, suspended_since=world.now, pods=())
        world.settle()
        world.pass_time(600)
        world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=False, suspended_since=None)
        world._new_pod(TRAIN)
        world.start(TRAIN)
        world.settle()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")


def test_what_the_user_stops_is_no_disruption() -> None:
    world = training()
    for _ in range(PATIENCE):
        world.edit(suspend=True)
        world.settle()
        world.edit(suspend=False)
        world.settle()
        world.start(newest_job(world))
        world.settle()
    assert world.run.status.disruptions is None
    assert world.reason == "Training"


@pytest.mark.parametrize("lost", range(4))
def test_a_status_write_that_is_lost_neither_counts_twice_nor_hides_one(lost: int) -> None:
    world = evicted_in_vain(lost)
    evict(world, TRAIN)
    world.reconcile(lose_status=True)
    world.settle()
    assert world.run.status.disruptions is not None
    assert world.run.status.disruptions.count == lost + 1
