"""The line of runs of one namespace and class: never more are active than may be, and the oldest comes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_operator.planning.line import LONGEST_RECHECK, RECHECK, Line, RunInLine, line_of
from lora_operator.planning.observed import QueuePlace
from lora_trainer.contract.exits import ExitCode

from tests.builders import a_class, after
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, fail_train, starting, training

SHARED = a_class(limits={"activeRunsPerNamespace": 2})
FULL = Line(has_place=False, active=2, ahead=0)
FREE = Line(has_place=False, active=1, ahead=0)


@st.composite
def standings(draw: st.DrawFn) -> tuple[RunInLine, ...]:
    """Runs of which some were created within the same second."""
    ages = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    return tuple(
        RunInLine(uid=f"uid-{index}", created=after(age), active=draw(st.booleans()), waits=draw(st.booleans()))
        for index, age in enumerate(ages)
    )


def seen_by(run: RunInLine, runs: tuple[RunInLine, ...]) -> Line:
    return line_of(run, (other for other in runs if other is not run))


@given(runs=standings(), places=st.integers(1, 4))
def test_runs_that_start_at_the_same_moment_never_are_too_many(runs: tuple[RunInLine, ...], places: int) -> None:
    waiting = sorted((run for run in runs if run.waits and not run.active), key=lambda run: (run.created, run.uid))
    active = sum(run.active for run in runs)
    admitted = [run for run in waiting if seen_by(run, runs).admits(places)]
    assert len(admitted) == min(len(waiting), max(0, places - active)), "no place stays free, and none is given twice"
    assert admitted == waiting[: len(admitted)], "the oldest"


@given(runs=standings(), places=st.integers(1, 4))
def test_each_run_has_its_turn(runs: tuple[RunInLine, ...], places: int) -> None:
    runs, begun = tuple(replace(run, waits=not run.active) for run in runs), []
    while any(run.waits for run in runs):
        if (first := next((run for run in runs if run.waits and seen_by(run, runs).admits(places)), None)) is not None:
            begun.append(first)
            runs = tuple(replace(run, active=True, waits=False) if run is first else run for run in runs)
        else:
            assert any(run.active for run in runs), "they wait for nobody"
            runs = tuple(run for run in runs if run is not next(run for run in runs if run.active))
    assert all(not run.waits for run in runs)


def test_a_run_that_has_a_place_needs_no_other() -> None:
    assert Line(has_place=True, active=9, ahead=9).admits(1)


def test_who_stands_far_back_looks_rarely() -> None:
    assert [Line(has_place=False, active=1, ahead=ahead).recheck for ahead in (0, 9, 10, 10_000)] == [
        RECHECK,
        RECHECK,
        2 * RECHECK,
        LONGEST_RECHECK,
    ]


# --- the walk -----------------------------------------------------------------------------------------------------


def test_a_run_waits_for_its_turn_and_is_told_its_place() -> None:
    world = Simulation(classes=(SHARED,))
    plan = world.settle(line=replace(FULL, ahead=2))
    assert world.condition("Reconciling") == ("True", "WaitingForTurn")
    assert world.condition("Accepted") == ("True", "Accepted")
    assert "allows 2 active runs in namespace team-a" in world.message
    assert "This one waits at position 3" in world.message
    assert plan.requeue_after == RECHECK
    assert world.created == []
    world.pass_time(40)
    world.settle(line=FREE)
    assert world.created == [PREPARE]
    assert (world.run.status.queued_since, world.run.status.queued_seconds) == (None, 40)


def test_a_limit_that_is_lifted_holds_nobody_back() -> None:
    world = Simulation(classes=(SHARED,))
    world.settle(line=FULL)
    world.classes = (a_class(),)
    world.settle(line=FULL)
    assert world.created == [PREPARE]


def test_the_time_in_line_has_an_end() -> None:
    world = Simulation(classes=(a_class(limits={"activeRunsPerNamespace": 2, "maxQueueSeconds": 60}),))
    world.settle(line=FULL)
    world.pass_time(55)
    assert world.settle(line=FULL).requeue_after == timedelta(seconds=5)
    world.pass_time(5)
    world.settle(line=FULL)
    assert world.condition("Finished") == ("True", "QueueTimeout")
    assert "60 s that limits.maxQueueSeconds of LoraFineTuneClass h100 allows" in world.message
    assert world.run.status.queued_seconds == 60
    assert world.created == []


LIMITED = a_class(limits={"maxQueueSeconds": 3600})


def queue(world: Simulation, *, suspended: bool) -> None:
    """Kueue suspends the train Job, or resumes it."""
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=suspended, queue="gpus", place=QueuePlace(position=1))
    world.settle()


def test_the_time_in_a_queue_of_kueue_has_an_end() -> None:
    world = starting(classes=(LIMITED,), queueName="gpus")
    world.slow_deletion = True
    queue(world, suspended=True)
    assert world.reason == "Queued"
    world.pass_time(3599)
    assert world.settle().requeue_after == timedelta(seconds=1)
    world.pass_time(1)
    world.settle()
    assert world.jobs[TRAIN].deleting, "nothing may run after the run has failed"
    world.finish_deletions()
    world.settle()
    assert world.condition("Finished") == ("True", "QueueTimeout")
    assert world.run.status.queued_seconds == 3600
    assert world.live_train_jobs == []


def test_each_wait_is_measured_for_itself() -> None:
    world = starting(classes=(LIMITED,), queueName="gpus")
    for _ in range(3):
        queue(world, suspended=True)
        world.pass_time(2000)
        world.settle()
        queue(world, suspended=False)
    world.start(TRAIN)
    world.settle()
    assert (world.reason, world.run.status.queued_seconds) == ("Training", 6000)


@pytest.mark.parametrize("paused", [True, False])
def test_maintenance_is_no_wait_for_others(paused: bool) -> None:
    world = Simulation(classes=(a_class(paused=paused, limits={"activeRunsPerNamespace": 2, "maxQueueSeconds": 60}),))
    world.settle(line=FULL)
    world.pass_time(3600)
    world.settle(line=FULL)
    assert world.reason == ("ClassPaused" if paused else "QueueTimeout")


def test_a_run_keeps_its_place_between_attempts() -> None:
    mine = Line(has_place=True, active=2, ahead=3)
    world = training(classes=(SHARED,))
    fail_train(world, ExitCode.StorageUnavailable)
    world.pass_time(60)
    world.settle(line=mine)
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
