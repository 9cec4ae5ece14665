"""The planner when attempts fail: retry, adjust, give up; and which Jobs of them stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.plan import Create
from lora_trainer.contract.exits import ExitCode

from tests.builders import NAME, a_class, failed_text, prepared_text, trained_text
from tests.unit.operator.simulation import (
    PREPARE,
    TRAIN,
    TRAIN_2,
    Simulation,
    fail_train,
    preparing,
    train_job,
    training,
)

INFRASTRUCTURE = [code for code in ExitCode if 50 <= code <= 59]


def oom_shrinks(world: Simulation) -> list[str]:
    """Arguments of the newest train Job, as its plan made them."""
    world.now += timedelta(minutes=10)
    plan = world.reconcile()
    bodies = [action.body for action in plan.actions if isinstance(action, Create) and action.body["kind"] == "Job"]
    assert len(bodies) == 1
    return bodies[0]["spec"]["template"]["spec"]["containers"][0]["args"]


# --- out of memory ------------------------------------------------------------------------------------------------


SHRINKS = [
    (8, 1, [(4, 2), (2, 4), (1, 8)]),
    (1, 8, []),
    (2, 4, [(1, 8)]),
    (6, 1, [(3, 2), (1, 6)]),
    (5, 3, [(1, 15), (1, 15)]),
    (12, 1, [(6, 2), (3, 4), (1, 12)]),
]


@pytest.mark.parametrize(("micro", "accumulation", "sequence"), SHRINKS)
def test_out_of_memory_halves_the_batch_and_gives_up_at_one_row(
    micro: int, accumulation: int, sequence: list[tuple[int, int]]
) -> None:
    world = training(micro_batch=micro, accumulation=accumulation)
    for times, (smaller, longer) in enumerate(sequence, start=1):
        fail_train(world, ExitCode.OutOfMemory, attempt=times)
        adjusted = world.run.status.adjustments[-1]
        assert (adjusted.per_device_train_batch_size, adjusted.gradient_accumulation_steps) == (smaller, longer)
        assert adjusted.attempt == times + 1
        assert smaller * longer == micro * accumulation, "the effective batch stays"
        assert world.created[-1] == train_job(times + 1), "at once: nobody has to wait"
    fail_train(world, ExitCode.OutOfMemory, attempt=len(sequence) + 1)
    assert world.condition("Finished") == ("True", "OutOfMemory")
    assert "one row" in world.message


def test_the_next_attempt_is_told_how_often_to_halve() -> None:
    world = training()
    world.end(TRAIN, ExitCode.OutOfMemory, failed_text(ExitCode.OutOfMemory))
    assert oom_shrinks(world)[-4:] == ["--attempt", "2", "--oom-shrinks", "1"]
    world.end(TRAIN_2, ExitCode.StorageUnavailable)
    world.settle()
    assert oom_shrinks(world)[-4:] == ["--attempt", "3", "--oom-shrinks", "1"], "it stays small after other failures"


def test_out_of_memory_costs_no_retry() -> None:
    world = training(retryLimit=0)
    fail_train(world, ExitCode.OutOfMemory)
    assert world.reason == "Starting"


# --- infrastructure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*INFRASTRUCTURE, 137, 143, 139])
def test_a_passing_cause_is_retried_after_a_pause(code: int) -> None:
    world = training()
    fail_train(world, code)
    assert world.condition("Ready") == ("False", "BackingOff")
    assert world.condition("Reconciling") == ("True", "BackingOff")
    assert world.condition("Running") == ("False", "BackingOff")
    plan = world.reconcile()
    assert plan.requeue_after == timedelta(seconds=10)
    world.pass_time(9)
    assert world.reconcile().requeue_after == timedelta(seconds=1)
    assert world.created == [PREPARE, TRAIN]
    world.pass_time(1)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_the_pause_doubles_up_to_six_minutes_and_the_retries_end() -> None:
    world = training(retryLimit=8)
    pauses = []
    for attempt in range(1, 9):
        fail_train(world, ExitCode.StorageUnavailable, attempt=attempt)
        pause = world.reconcile().requeue_after
        assert pause is not None
        pauses.append(pause.total_seconds())
        world.now += pause
        world.settle()
    assert pauses == [10, 20, 40, 80, 160, 320, 360, 360]
    fail_train(world, ExitCode.StorageUnavailable, attempt=9)
    assert world.condition("Finished") == ("True", "StorageUnavailable")
    assert "spec.retryLimit allows 8" in world.message


def test_a_raised_retry_limit_counts_while_the_run_lives() -> None:
    world = training(retryLimit=1)
    fail_train(world, ExitCode.HubUnavailable)
    world.edit(retry_limit=2)
    for attempt in (2, 3):
        world.pass_time(60)
        world.settle()
        fail_train(world, ExitCode.HubUnavailable, attempt=attempt)
    assert world.condition("Finished") == ("True", "HubUnavailable")


def test_prepare_and_train_have_retries_of_their_own() -> None:
    world = preparing(retryLimit=1)
    world.end(PREPARE, ExitCode.StorageUnavailable)
    world.settle()
    world.pass_time(10)
    world.settle()
    world.end(f"{NAME}-prepare-2", 0, prepared_text())
    world.settle()
    fail_train(world, ExitCode.StorageUnavailable)
    assert world.reason == "BackingOff"


def test_the_message_of_a_pause_stands_still() -> None:
    world = training()
    fail_train(world, ExitCode.StorageUnavailable, text=failed_text(ExitCode.StorageUnavailable, message="No answer."))
    first = world.message
    assert "No answer." in first
    assert "Next attempt: 12:00:45 UTC" in first
    world.pass_time(5)
    world.settle()
    assert world.message == first
    assert world.events.count("StorageUnavailable") == 1


# --- bugs, and ends without a termination message ---------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 2, 126, 127])
def test_a_bug_is_retried_once(code: int) -> None:
    world = training()
    fail_train(world, code, text="")
    assert world.reason == "BackingOff"
    world.pass_time(10)
    world.settle()
    fail_train(world, code, text="", attempt=2)
    assert world.condition("Finished") == ("True", "InternalError")
    assert "and this was the second" in world.message
    assert "Check the pod's log" in world.message


def test_the_kernels_kill_is_named_and_retried_once() -> None:
    world = training()
    fail_train(world, 137, kubelet_reason="OOMKilled", text="")
    assert world.run.status.attempts[-1].reason == "OutOfHostMemory"
    world.pass_time(10)
    world.settle()
    fail_train(world, 137, kubelet_reason="OOMKilled", text="", attempt=2)
    assert world.condition("Finished") == ("True", "OutOfHostMemory")
    assert "model.maxSeqLength" in world.message


@pytest.mark.parametrize("text", ["", "Killed", "{}", '{"reason":"Succeeded","message":"m"}'])
def test_a_success_without_a_result_is_none(text: str) -> None:
    world = training()
    fail_train(world, 0, text=text)
    assert world.run.status.attempts[-1].reason == "OutcomeMissing"
    assert world.reason == "BackingOff"


def test_a_result_of_the_other_stage_is_none_either() -> None:
    world = training()
    world.end(TRAIN, 0, prepared_text())
    world.settle()
    assert world.run.status.attempts[-1].reason == "OutcomeMissing"
    assert world.reason == "BackingOff"
    world = preparing()
    world.end(PREPARE, 0, trained_text())
    world.settle()
    assert world.run.status.attempts[-1].reason == "OutcomeMissing"


def test_a_pod_that_vanished_is_lost_and_retried() -> None:
    world = training()
    lost = replace(world.jobs[TRAIN], pods=(), finished="Failed", finish_message="Job has reached the backoff limit")
    world.jobs[TRAIN] = lost
    world.settle()
    assert world.run.status.attempts[-1].reason == "PodLost"
    assert world.reason == "BackingOff"
    assert "without a termination message" in world.message


@pytest.mark.parametrize("name", [PREPARE, TRAIN])
def test_a_result_that_was_removed_with_its_pod_is_asked_for_again_at_no_retry(name: str) -> None:
    world = (preparing if name == PREPARE else training)(retryLimit=0)
    for _ in range(3):
        newest = world.created[-1]
        world.jobs[newest] = replace(world.jobs[newest], pods=(), finished="Complete")
        world.settle()
        attempt = [entry for entry in world.run.status.attempts if entry.reason][-1]
        assert (attempt.reason, attempt.exit_class) == ("ResultLost", "Interrupted")
        assert "before the operator read the result" in (attempt.message or "")
        assert world.created[-1] != newest, "at once: nobody has to wait"
    world.end(world.created[-1], 0, prepared_text() if name == PREPARE else trained_text())
    world.settle()
    last = [entry for entry in world.run.status.attempts if entry.reason][-1]
    assert last.reason == "Succeeded"


def test_a_job_deleted_by_hand_is_replaced() -> None:
    world = training()
    world.delete_job(TRAIN)
    world.settle()
    assert world.run.status.attempts[-1].reason == "JobDeleted"
    world.pass_time(10)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_a_pod_that_outlives_its_job_is_waited_for() -> None:
    world = training()
    pod = world.jobs[TRAIN].newest_pod
    assert pod is not None
    world.delete_job(TRAIN)
    world.settle(orphans=(pod,))
    world.pass_time(10)
    assert world.settle(orphans=(pod,)).decisive, "only live reads tell whether it is still there"
    assert (world.reason, world.created) == ("Stopping", [PREPARE, TRAIN])
    assert pod.name in world.message
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_a_clock_behind_the_nodes_ends_no_attempt_before_it_began() -> None:
    world = training()
    world.pass_time(-300)
    world.delete_job(TRAIN)
    world.settle()
    attempt = world.run.status.attempts[-1]
    assert (attempt.end_time, attempt.duration_seconds) == (attempt.start_time, 0)


def test_a_prepare_job_deleted_by_hand_is_replaced() -> None:
    world = preparing()
    world.delete_job(PREPARE)
    world.settle()
    world.pass_time(10)
    world.settle()
    assert world.created == [PREPARE, f"{NAME}-prepare-2"]


def test_a_finished_prepare_job_deleted_by_hand_is_not_missed() -> None:
    world = training()
    world.delete_job(PREPARE)
    world.settle()
    assert world.reason == "Training"
    assert world.created == [PREPARE, TRAIN]


def test_an_interrupted_pod_is_replaced_within_its_job() -> None:
    world = training()
    world.end(TRAIN, ExitCode.Interrupted, failed_text(ExitCode.Interrupted, step=30))
    world.settle()
    assert world.reason == "Starting"
    assert world.created == [PREPARE, TRAIN]
    world.start(TRAIN)
    world.settle()
    assert world.reason == "Training"


def test_what_an_attempt_did_is_on_record() -> None:
    world = training()
    world.pass_time(120)
    fail_train(world, ExitCode.StorageUnavailable, text=failed_text(ExitCode.StorageUnavailable, step=40))
    attempt = world.run.status.attempts[-1]
    assert (attempt.reason, attempt.exit_code, attempt.to_step, attempt.node) == (
        "StorageUnavailable",
        50,
        40,
        "node-1",
    )
    assert attempt.start_time is not None
    assert attempt.end_time is not None
    assert (attempt.end_time - attempt.start_time).total_seconds() == 120


# --- what stays of failed attempts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, []), (1, [4]), (3, [2, 3, 4])], ids=["none", "the last", "the default"]
)
def test_jobs_of_failed_attempts_are_kept_up_to_a_limit(limit: int, kept: list[int]) -> None:
    world = training(classes=(a_class(failedJobsHistoryLimit=limit),), retryLimit=10)
    for attempt in range(1, 5):
        fail_train(world, ExitCode.StorageUnavailable, attempt=attempt)
        world.now += timedelta(minutes=10)
        world.settle()
    assert sorted(world.jobs) == sorted([PREPARE, *map(train_job, [*kept, 5])])
    assert [attempt.number for attempt in world.run.status.of(Stage.TRAIN)] == [1, 2, 3, 4, 5]


def test_a_job_whose_end_is_not_in_status_is_kept() -> None:
    world = training(classes=(a_class(failedJobsHistoryLimit=0),))
    world.end(TRAIN, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable))
    world.reconcile(lose_status=True)
    assert TRAIN in world.jobs
    world.settle()
    assert world.run.status.attempts[-1].reason == "StorageUnavailable"
    assert sorted(world.jobs) == [PREPARE]
