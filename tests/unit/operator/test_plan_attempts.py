"""What the planner remembers of attempts, and what it does about a train pod that makes no more steps."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.observed import PolledProgress
from lora_operator.planning.plan import Delete
from lora_operator.planning.stuck import LONGEST_GAP, answered, stuck_sentence
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import NAME, a_job, a_running_pod, after, failed_text, trained_text
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, preparing, training

POD = "job-x"


def progress(**fields: Any) -> Progress:
    """A trainer that is between two steps of 2 s."""
    shown = {"phase": Phase.TRAINING, "step": 40, "totalSteps": 600, "stepSeconds": 2.0}
    return Progress.model_validate(shown | fields)


def silent_for(seconds: float, *, pod: str = POD, **fields: Any) -> PolledProgress:
    """An answer that has been the same for so long."""
    return PolledProgress(progress=progress(**fields), time=after(5000), pod=pod, unchanged=timedelta(seconds=seconds))


# --- records ------------------------------------------------------------------------------------------------------


def test_a_closed_record_tells_what_happened() -> None:
    world = training()
    world.pass_time(120)
    text = failed_text(ExitCode.StorageUnavailable, message="The store is away.", remedy="Wait.", step=40)
    world.end(TRAIN, ExitCode.StorageUnavailable, text)
    world.settle()
    record = world.run.status.attempts[-1].wire()
    assert {key: record[key] for key in record if not key.endswith("Time")} == {
        "stage": "train",
        "number": 1,
        "reason": "StorageUnavailable",
        "exitClass": "Infrastructure",
        "exitCode": 50,
        "message": "The store is away. Wait.",
        "durationSeconds": 120,
        "waitingSeconds": 10,
        "toStep": 40,
        "node": "node-1",
    }


def test_of_what_went_well_nothing_is_to_be_said() -> None:
    world = training()
    record = world.run.status.attempts[0]
    assert (record.reason, record.exit_class, record.message) == ("Succeeded", "Done", None)
    assert record.duration_seconds == 20


def test_the_step_reached_is_known_of_a_pod_that_left_no_last_word() -> None:
    world = training()
    world.settle(polled=silent_for(0, pod=f"{TRAIN}-2", step=70))
    world.end(TRAIN, 137)
    world.settle()
    record = world.run.status.attempts[-1]
    assert (record.to_step, record.exit_class) == (70, "Infrastructure")


def test_what_an_earlier_pod_answered_is_not_the_step_of_the_next() -> None:
    world = training()
    world.end(TRAIN, ExitCode.StorageUnavailable)
    world.pass_time(60)
    world.settle()
    world.start(TRAIN_2)
    world.settle(polled=silent_for(0, pod=f"{TRAIN}-2", step=70))
    assert world.reason == "Training"
    assert world.run.status.attempts[-1].to_step is None


CLOSED_BY_OTHERS = [
    ("suspend", "SuspendedByUser", "Interrupted"),
    ("deadline", "DeadlineExceeded", "Interrupted"),
    ("deleted", "JobDeleted", "Infrastructure"),
]


@pytest.mark.parametrize(("how", "reason", "kind"), CLOSED_BY_OTHERS)
def test_records_that_no_pod_closed_are_as_complete(how: str, reason: str, kind: str) -> None:
    world = training(maxRuntimeSeconds=100)
    world.settle(polled=silent_for(0, pod=f"{TRAIN}-2", step=30))
    world.pass_time(90 if how == "deadline" else 50)
    if how == "suspend":
        world.edit(suspend=True)
    elif how == "deleted":
        world.delete_job(TRAIN)
    world.settle()
    record = world.run.status.attempts[-1]
    assert (record.reason, record.exit_class, record.to_step) == (reason, kind, 30)
    assert record.duration_seconds == (90 if how == "deadline" else 50)
    assert record.message


def test_a_failed_run_tells_what_it_took() -> None:
    world = training()
    world.pass_time(120)
    world.end(TRAIN, ExitCode.Diverged, failed_text(ExitCode.Diverged))
    world.settle()
    assert world.run.status.usage is not None
    assert world.run.status.usage.accelerator_seconds == 120
    world = preparing()
    world.end(PREPARE, ExitCode.DatasetInvalid, failed_text(ExitCode.DatasetInvalid))
    world.settle()
    assert world.run.status.usage is None, "no accelerator was taken"


def test_a_long_message_is_cut() -> None:
    world = training()
    world.end(TRAIN, ExitCode.HubUnavailable, failed_text(ExitCode.HubUnavailable, message="x" * 900))
    world.settle()
    message = world.run.status.attempts[-1].message
    assert message is not None
    assert (len(message), message[-1]) == (512, "…")


# --- how long a pod has shown the same ----------------------------------------------------------------------------


def test_time_counts_while_answers_are_the_same() -> None:
    polled = None
    for at in (0, 10, 20, 30):
        polled = answered(polled, progress(loss=at), pod=POD, time=after(at))
    assert polled is not None
    assert polled.unchanged == timedelta(seconds=30), "what is shown beside the step does not matter"


@pytest.mark.parametrize(
    ("pod", "fields"),
    [
        (POD, {"step": 41}),
        (POD, {"phase": Phase.EVALUATING}),
        (POD, {"stepSeconds": None}),
        ("another", {}),
    ],
    ids=["step", "stage", "no step is due", "pod"],
)
def test_time_begins_anew_with_every_change(pod: str, fields: dict[str, Any]) -> None:
    before = answered(None, progress(), pod=POD, time=after(0))
    before = answered(before, progress(), pod=POD, time=after(50))
    assert answered(before, progress(**fields), pod=pod, time=after(60)).unchanged == timedelta()


@pytest.mark.parametrize(("gap", "counts"), [(10, 10), (60, 60), (3600, 60), (-3600, 0)])
def test_silence_and_clocks_that_jump_prove_nothing(gap: int, counts: int) -> None:
    before = answered(None, progress(), pod=POD, time=after(0))
    assert answered(before, progress(), pod=POD, time=after(gap)).unchanged == timedelta(seconds=counts)
    assert timedelta(seconds=60) == LONGEST_GAP


# --- what counts as stuck -----------------------------------------------------------------------------------------

STUCK = [
    (600, {}, True),
    (599, {}, False),
    (799, {"stepSeconds": 40.0}, False),
    (800, {"stepSeconds": 40.0}, True),
    (600, {"stepSeconds": 0.01}, True),
    (90_000, {"stepSeconds": None}, False),
    *((90_000, {"phase": phase}, False) for phase in Phase if phase is not Phase.TRAINING),
]


@pytest.mark.parametrize(("seconds", "fields", "stuck"), STUCK)
def test_a_pod_is_stuck_when_a_step_is_long_overdue(seconds: float, fields: dict[str, Any], stuck: bool) -> None:
    job = a_job(pods=(a_running_pod(),))
    assert (stuck_sentence(job, silent_for(seconds, **fields)) is not None) is stuck


def test_a_pod_that_stops_or_was_never_asked_is_not_stuck() -> None:
    assert stuck_sentence(a_job(pods=(a_running_pod(),)), None) is None
    assert stuck_sentence(a_job(pods=(a_running_pod(delete_by=after(0)),)), silent_for(900)) is None
    assert stuck_sentence(a_job(), silent_for(900)) is None


# --- what follows -------------------------------------------------------------------------------------------------


def get_stuck(world: Simulation, *, attempt: int = 1) -> None:
    """The pod of a train attempt runs, and its answers have been the same for 15 minutes."""
    job = f"{NAME}-train-{attempt}"
    world.start(job)
    world.pass_time(1000)
    world.settle(polled=silent_for(900, pod=world.jobs[job].pods[-1].name))


def test_a_stuck_attempt_is_ended_and_restarted_at_once() -> None:
    world = training()
    world.slow_deletion = True
    plan = world.reconcile(polled=silent_for(900, pod=f"{TRAIN}-2"))
    assert (plan.actions, plan.decisive) == ((), True), "first the record is closed"
    assert world.condition("Reconciling") == ("True", "NoProgress")
    assert world.condition("Ready") == ("False", "NoProgress")
    assert world.condition("Running") == ("False", "NoProgress")
    assert world.condition("Stalled") is None
    told = world.message
    assert told.startswith(
        "Train attempt 1 (pod text-to-sql-train-1-2 on node node-1) has been at step 40 of 600 for 15m, "
        "although its steps take 2 s."
    )
    assert world.events[-1] == "NoProgress"
    plan = world.reconcile(polled=silent_for(910, pod=f"{TRAIN}-2"))
    assert [action.name for action in plan.actions if isinstance(action, Delete)] == [TRAIN]
    assert world.settle(polled=silent_for(920, pod=f"{TRAIN}-2")).actions == ()
    assert (world.reason, world.message) == ("NoProgress", told), "it is told until the pod has gone"
    world.finish_deletions()
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
    assert world.condition("Stalled") is None
    assert world.reason == "Starting"
    record = world.run.status.of(Stage.TRAIN)[0]
    assert (record.reason, record.exit_class) == ("NoProgress", "Stuck")
    assert record.message is not None
    assert told.startswith(record.message)


def test_a_second_time_the_run_fails() -> None:
    world = training()
    get_stuck(world)
    get_stuck(world, attempt=2)
    assert world.condition("Finished") == ("True", "NoProgress")
    assert world.condition("Stalled") == ("True", "NoProgress")
    assert "This was the second time, so the operator does not restart it again. Ask the platform team" in world.message
    assert [a.reason for a in world.run.status.of(Stage.TRAIN)] == ["NoProgress", "NoProgress"]
    assert world.live_train_jobs == []
    world.pass_time(3600)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2]


def test_being_stuck_costs_no_other_retry_and_other_failures_cost_not_this_one() -> None:
    world = training(retryLimit=1)
    world.end(TRAIN, ExitCode.InternalError, failed_text(ExitCode.InternalError))
    world.settle()
    world.pass_time(10)
    world.settle()
    get_stuck(world, attempt=2)
    world.end(f"{NAME}-train-3", ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable))
    world.settle()
    world.pass_time(10)
    world.settle()
    world.end(f"{NAME}-train-4", 0, trained_text())
    world.settle()
    assert world.reason == "AdapterPublished"
    classes = [attempt.exit_class for attempt in world.run.status.of(Stage.TRAIN)]
    assert classes == ["Bug", "Stuck", "Infrastructure", "Done"]


@pytest.mark.parametrize("survived", range(3))
def test_an_operator_that_dies_while_it_ends_a_stuck_pod_counts_it_once(survived: int) -> None:
    world = training(retryLimit=0)
    polled = silent_for(900, pod=f"{TRAIN}-2")
    for _ in range(survived):
        world.reconcile(polled=polled)
    world.reconcile(lose_status=True, polled=polled)
    world.settle(polled=polled)
    assert world.created == [PREPARE, TRAIN, TRAIN_2]
    assert [a.reason for a in world.run.status.of(Stage.TRAIN)] == ["NoProgress", None]


def test_suspending_a_stuck_run_suspends_it() -> None:
    world = training()
    world.slow_deletion = True
    world.settle(polled=silent_for(900, pod=f"{TRAIN}-2"))
    world.edit(suspend=True)
    world.settle()
    assert world.reason == "NoProgress"
    world.finish_deletions()
    world.settle()
    assert world.condition("Suspended") == ("True", "SuspendedByUser")
    assert world.condition("Stalled") is None
