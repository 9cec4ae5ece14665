"""What becomes of a run's work in the bucket: kept while anything may need it, then deleted by a Job, and told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_operator.api.lorafinetune import Work, WorkState
from lora_operator.naming import Stage
from lora_operator.planning.observed import Refusal, TakenName
from lora_operator.planning.work import MOST_AT_ONCE, PAUSES, remove_work
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import CleanupResult, Outcome, encode_outcome

from tests.builders import NAME, NAMESPACE, UID, a_class, a_pod, class_spec, failed_text
from tests.unit.operator.simulation import TRAIN, Simulation, complete, failed, preparing, training

WORK = f"s3://platform/runs/{NAMESPACE}/{NAMESPACE}/{NAME}/{UID}"
DAY = 24 * 3600
CLEANED = encode_outcome(Outcome(reason="Succeeded", message="Cleaned.", result=CleanupResult(files=7)))
DENIED = failed_text(ExitCode.StorageDenied)


def cleanup(number: int) -> str:
    return f"{NAME}-cleanup-{number}"


def retain(world: Simulation, *, success: int | None = None, failure: int | None = None, **spec: Any) -> None:
    """The platform team sets how long work stays."""
    asked = {"afterSuccessSeconds": success, "afterFailureSeconds": failure}
    retention = {name: seconds for name, seconds in asked.items() if seconds is not None}
    world.classes = (a_class(storage=class_spec()["storage"] | {"workRetention": retention}, **spec),)


def work(world: Simulation) -> Work:
    assert world.run.status.work
    return world.run.status.work


def cleanups(world: Simulation) -> list[str]:
    return [name for name in world.created if "-cleanup-" in name]


# --- what stays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [complete, failed])
def test_without_a_retention_the_work_stays(ended: Any) -> None:
    world = ended()
    world.pass_time(365 * DAY)
    world.settle()
    assert cleanups(world) == []
    assert work(world) == Work(uri=WORK)


def test_a_run_says_where_its_work_is_from_the_start() -> None:
    assert work(preparing()) == Work(uri=WORK)


@pytest.mark.parametrize("begin", [preparing, training])
def test_an_unfinished_run_keeps_its_work_as_long_as_it_takes(begin: Any) -> None:
    world = begin()
    retain(world, success=0, failure=0)
    world.edit(suspend=True)
    world.settle()
    world.pass_time(365 * DAY)
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    assert cleanups(world) == []
    assert work(world).state is WorkState.KEPT


@pytest.mark.parametrize(
    ("ended", "retention"), [(complete, {"failure": 0}), (failed, {"success": 0})], ids=["Ready", "failed"]
)
def test_success_and_failure_have_times_of_their_own(ended: Any, retention: dict[str, int]) -> None:
    world = ended()
    retain(world, **retention)
    world.pass_time(365 * DAY)
    world.settle()
    assert cleanups(world) == []


def test_a_class_that_is_gone_deletes_nothing() -> None:
    world = complete()
    world.classes = (a_class("another"),)
    world.pass_time(DAY)
    world.settle()
    assert cleanups(world) == []


def test_pods_that_may_still_write_are_waited_for() -> None:
    world = training()
    retain(world, failure=0)
    train = world.jobs[TRAIN]
    world.end(TRAIN, ExitCode.Diverged, failed_text(ExitCode.Diverged))
    world.reconcile()
    assert world.run.status.terminal
    orphan = a_pod(phase="Running", job_uid="a Job that is gone")
    assert cleanups(world) == []
    for held in ({"orphans": (orphan,)}, {"jobs": (train,)}):
        plan = remove_work(replace(world.observe(), **held), world.now)
        assert plan.actions == ()
        assert plan.requeue_after == timedelta(seconds=10)
    world.settle()
    assert cleanups(world) == [cleanup(1)]


# --- what goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "retention"), [(complete, {"success": DAY}), (failed, {"failure": DAY})], ids=["Ready", "failed"]
)
def test_work_is_deleted_when_its_time_is_over(ended: Any, retention: dict[str, int]) -> None:
    world = ended()
    retain(world, **retention)
    ready = world.condition("Ready")
    world.pass_time(DAY - 1)
    assert world.settle().requeue_after == timedelta(seconds=1)
    assert cleanups(world) == []
    world.pass_time(1)
    world.settle()
    assert cleanups(world) == [cleanup(1)]
    assert work(world).state is WorkState.KEPT, "it is not gone yet"
    world.start(cleanup(1))
    world.end(cleanup(1), 0, CLEANED)
    world.settle()
    assert work(world) == Work(uri=WORK, state=WorkState.REMOVED, removed_time=world.now)
    assert world.condition("Ready") == ready
    (record,) = world.run.status.of(Stage.CLEANUP)
    assert (record.reason, record.exit_code) == ("Succeeded", 0)
    world.pass_time(365 * DAY)
    world.settle()
    assert cleanups(world) == [cleanup(1)]
    assert world.jobs == {}


def test_a_finished_run_whose_jobs_are_gone_is_cleaned_up_and_its_cleanup_job_stays_as_long_as_others() -> None:
    world = complete()
    world.pass_time(8 * DAY)
    world.settle()
    assert world.jobs == {}
    assert world.resolved is None
    retain(world, success=9 * DAY)
    world.pass_time(DAY)
    world.settle()
    assert list(world.jobs) == [cleanup(1)], "it still runs"
    assert world.settle().actions == ()
    world.start(cleanup(1))
    world.end(cleanup(1), 0, CLEANED)
    world.settle()
    world.pass_time(7 * DAY - 1)
    world.settle()
    assert list(world.jobs) == [cleanup(1)]
    world.pass_time(1)
    world.settle()
    assert world.jobs == {}


def test_a_running_cleanup_is_not_deleted_with_the_children_of_the_run() -> None:
    world = complete()
    retain(world, success=7 * DAY)
    world.pass_time(7 * DAY)
    world.settle()
    assert list(world.jobs) == [cleanup(1)]
    world.end(cleanup(1), 0, CLEANED)
    world.settle()
    assert work(world).state is WorkState.REMOVED


def test_many_runs_are_cleaned_up_a_few_at_a_time() -> None:
    world = complete()
    retain(world, success=0)
    assert world.settle(cleanups=MOST_AT_ONCE).requeue_after == timedelta(minutes=1)
    assert cleanups(world) == []
    world.settle(cleanups=MOST_AT_ONCE - 1)
    assert cleanups(world) == [cleanup(1)]


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_failed_cleanup_is_retried_told_and_given_up() -> None:
    world = complete()
    retain(world, success=0)
    before = world.run.status
    world.settle()
    for number, pause in enumerate(PAUSES, start=1):
        world.end(cleanup(number), ExitCode.StorageDenied, DENIED)
        assert world.settle().requeue_after == pause
        assert f"Cleanup attempt {number} failed." in (work(world).message or "")
        assert world.events[-1] == "StorageDenied"
        world.pass_time(pause.total_seconds())
        world.settle()
        assert cleanups(world)[-1] == cleanup(number + 1)
    world.end(cleanup(len(PAUSES) + 1), ExitCode.StorageDenied, DENIED)
    world.settle()
    message = work(world).message or ""
    assert "does not try again" in message
    assert f"Delete prepared/ and checkpoints/ below {WORK} yourself." in message
    world.pass_time(365 * DAY)
    world.settle()
    assert len(cleanups(world)) == len(PAUSES) + 1
    assert work(world).state is WorkState.KEPT
    assert world.run.status.conditions == before.conditions, "Ready is as it was"
    assert world.run.status.usage == before.usage, "it held no accelerator"


def test_a_retention_that_is_withdrawn_ends_the_retries() -> None:
    world = complete()
    retain(world, success=0)
    world.settle()
    world.end(cleanup(1), ExitCode.StorageDenied, DENIED)
    world.settle()
    retain(world)
    world.pass_time(DAY)
    world.settle()
    assert cleanups(world) == [cleanup(1)]
    assert work(world) == Work(uri=WORK)


def test_an_operator_that_dies_after_creating_the_job_creates_no_other() -> None:
    world = complete()
    retain(world, success=0)
    world.reconcile(lose_status=True)
    world.settle()
    assert cleanups(world) == [cleanup(1)]


@pytest.mark.parametrize(
    ("hindrance", "words"),
    [
        ({"child_refusal": Refusal(child="Job x", why="exceeded quota: team")}, "refuses Job x: exceeded quota: team"),
        ({"taken": TakenName(child="Job x")}, "Job x already exists"),
    ],
)
def test_a_job_that_cannot_be_created_is_told(hindrance: dict[str, Any], words: str) -> None:
    world = complete()
    retain(world, success=0)
    world.reconcile(**hindrance)
    assert words in (work(world).message or "")
    assert world.condition("Ready") == ("True", "AdapterPublished")
    world.settle()
    world.end(cleanup(1), 0, CLEANED)
    world.settle()
    assert work(world).message is None


def test_a_pod_that_waits_is_told() -> None:
    world = complete()
    retain(world, success=0)
    world.settle()
    world.change_pod(cleanup(1), unschedulable="0/3 nodes are available")
    world.settle()
    assert "0/3 nodes are available" in (work(world).message or "")
    world.change_pod(cleanup(1), unschedulable=None)
    waiting = world.jobs[cleanup(1)]
    world.jobs[cleanup(1)] = replace(waiting, pods=(), pod_refusal="exceeded quota: team")
    world.settle()
    assert f"refuses the pod of Job {cleanup(1)}: exceeded quota: team" in (work(world).message or "")
    world.jobs[cleanup(1)] = waiting
    world.start(cleanup(1))
    world.settle()
    assert work(world).message is None


# --- in general ---------------------------------------------------------------------------------------------------


@given(
    begin=st.sampled_from([Simulation, preparing, training, complete, failed]),
    success=st.none() | st.integers(0, 3 * DAY),
    failure=st.none() | st.integers(0, 3 * DAY),
    passed=st.integers(0, 4 * DAY),
    suspend=st.booleans(),
)
def test_work_is_deleted_exactly_when_the_run_is_over_and_its_time_too(
    begin: Any, success: int | None, failure: int | None, passed: int, suspend: bool
) -> None:
    world = begin()
    over = world.run.status.completion_time
    if suspend and over is None:
        world.edit(suspend=True)
    retain(world, success=success, failure=failure)
    world.settle()
    world.pass_time(passed)
    world.settle()
    seconds = success if begin is complete else failure
    due = over is not None and seconds is not None and passed >= seconds
    assert cleanups(world) == ([cleanup(1)] if due else [])
