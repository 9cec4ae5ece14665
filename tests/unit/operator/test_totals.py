"""Sums over the attempts of a run, and the clocks of nodes that they must not depend on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_operator.api.lorafinetune import Attempt, AttemptTotals
from lora_operator.naming import Stage
from lora_operator.planning.attempts import MAX_ATTEMPTS, trimmed
from lora_operator.planning.running_time import ended_at
from lora_operator.planning.totals import with_more
from lora_trainer.contract.exits import ExitClass, ExitCode

from tests.builders import a_class, a_dead_pod, after, failed_text, prepared_text, trained_text
from tests.unit.operator.simulation import (
    PREPARE,
    TRAIN,
    TRAIN_2,
    Simulation,
    fail_train,
    starting,
    train_job,
    training,
)

SECONDS = st.integers(0, 100_000)
ATTEMPTS = st.builds(
    Attempt,
    stage=st.sampled_from(Stage),
    number=st.integers(1, 10_000),
    reason=st.sampled_from(["Disrupted", "Interrupted", "StorageUnavailable", "Killed"]),
    exit_class=st.sampled_from(ExitClass),
    duration_seconds=st.none() | SECONDS,
    waiting_seconds=st.none() | SECONDS,
)


@given(st.lists(ATTEMPTS, max_size=3 * MAX_ATTEMPTS), st.integers(1, MAX_ATTEMPTS))
@settings(max_examples=50, derandomize=True)
def test_attempts_that_are_removed_stay_in_the_sums(attempts: list[Attempt], at_once: int) -> None:
    kept: tuple[Attempt, ...] = ()
    removed_totals: AttemptTotals | None = None
    for first in range(0, len(attempts), at_once):
        kept, removed = trimmed((*kept, *attempts[first : first + at_once]))
        removed_totals = with_more(removed_totals, removed)
        assert len(kept) <= MAX_ATTEMPTS
    assert with_more(removed_totals, kept) == with_more(None, attempts)


def interrupt(world: Simulation, number: int) -> None:
    """A person suspends the run for a moment after 100 s of training."""
    world.start(train_job(number))
    world.pass_time(100)
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()


def test_hours_that_nobody_remembers_count_for_deadline_and_usage() -> None:
    world = training(maxRuntimeSeconds=6000)
    for number in range(1, 60):
        interrupt(world, number)
    status = world.run.status
    assert len(status.attempts) == MAX_ATTEMPTS
    assert status.removed_attempts is not None
    assert status.removed_attempts.attempts + len(status.attempts) == 61
    assert status.usage is not None
    assert status.usage.accelerator_seconds == 5900
    world.start(train_job(60))
    world.pass_time(79)
    world.settle()
    assert world.reason == "Training", "20 s of prepare, 5900 s before and 79 s now"
    world.pass_time(1)
    world.settle()
    assert world.reason == "DeadlineExceeded"


def test_jobs_whose_records_were_removed_get_no_record_again() -> None:
    world = training()
    kept = world.jobs[TRAIN]
    for number in range(1, 60):
        interrupt(world, number)
    world.jobs[TRAIN] = kept
    world.settle()
    assert [a.number for a in world.run.status.of(Stage.TRAIN)] == list(range(14, 61))


# --- usage --------------------------------------------------------------------------------------------------------


def usage_of(world: Simulation) -> dict[str, Any]:
    usage = world.run.status.usage
    assert usage is not None
    return usage.wire()


def test_what_failed_and_what_waited_is_told_apart() -> None:
    world = training()
    world.pass_time(100)
    fail_train(world, ExitCode.StorageUnavailable)
    world.pass_time(10)
    world.settle()
    world.pass_time(1000)
    world.start(TRAIN_2)
    world.settle()
    world.pass_time(200)
    world.end(TRAIN_2, 0, trained_text())
    world.settle()
    told = {
        "podSeconds": 320,
        "acceleratorSeconds": 300,
        "failedAcceleratorSeconds": 100,
        "waitingSeconds": 5 + 10 + 1000,
    }
    assert usage_of(world).items() >= told.items()


def test_a_gpu_counts_from_the_moment_at_which_it_is_taken() -> None:
    world = starting()
    world.start(TRAIN)
    world.change_pod(TRAIN, scheduled=world.now - timedelta(seconds=7))
    world.settle()
    world.pass_time(100)
    world.end(TRAIN, 0, trained_text())
    world.settle()
    assert usage_of(world)["acceleratorSeconds"] == 107


def test_a_cpu_class_holds_no_accelerator() -> None:
    world = Simulation(classes=(a_class(accelerator={"cpu": {}}),))
    world.settle()
    world.start(PREPARE)
    world.pass_time(20)
    world.end(PREPARE, 0, prepared_text())
    world.settle()
    world.start(TRAIN)
    world.pass_time(300)
    world.end(TRAIN, 0, trained_text())
    world.settle()
    assert (usage_of(world)["acceleratorSeconds"], usage_of(world)["podSeconds"]) == (0, 320)


# --- clocks of nodes ----------------------------------------------------------------------------------------------


@given(
    ahead=st.integers(-86_400, 86_400), startup=st.integers(0, 600), ran=st.integers(0, 10_000), seen=st.integers(0, 60)
)
@settings(max_examples=200, derandomize=True)
def test_no_clock_of_a_node_moves_the_end_of_a_pod_far(ahead: int, startup: int, ran: int, seen: int) -> None:
    started, finished, now = after(startup), after(startup + ran), after(startup + ran + seen)
    skew = timedelta(seconds=ahead)
    pod = a_dead_pod(code=1, scheduled=after(0), started=started + skew, finished=finished + skew)
    end = ended_at(pod, now=now)
    assert end is not None
    assert after(ran) <= end <= now, "at least what its container ran, and no longer than until it was seen to have"
    if ahead == 0:
        assert end == finished


@pytest.mark.parametrize("hours", [1, -2])
def test_a_node_with_a_wrong_clock_neither_delays_nor_ends_a_run(hours: int) -> None:
    world = training(maxRuntimeSeconds=3600)
    skew = timedelta(hours=hours)
    world.change_pod(TRAIN, started=world.now + skew)
    world.settle()
    assert world.reason == "Training"
    world.pass_time(100)
    dead = a_dead_pod(code=50, finished=world.now + skew).termination
    world.end(TRAIN, 50, failed_text(ExitCode.StorageUnavailable))
    world.change_pod(TRAIN, termination=dead)
    world.settle()
    assert world.reason == "BackingOff"
    assert world.run.status.attempts[-1].duration_seconds == 100
    world.pass_time(10)
    world.settle()
    assert world.created[-1] == TRAIN_2
