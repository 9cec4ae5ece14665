"""The planner over the life of one run: what it does next, and what it never does again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.naming import Stage
from lora_operator.planning.observed import ClassView, TakenName
from lora_operator.planning.plan import Create, Delete
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import DroppedRows, Outcome, Unused, encode_outcome

from tests.builders import a_class, an_artifact, class_spec, failed_text, prepare_result, prepared_text, trained_text
from tests.unit.operator.simulation import (
    PREPARE,
    TRAIN,
    TRAIN_2,
    Simulation,
    complete,
    failed,
    preparing,
    starting,
    training,
)

Body = dict[str, Any]


# --- the straight way ---------------------------------------------------------------------------------------------


def test_a_new_run_gets_its_config_map_and_its_prepare_job_in_one_turn() -> None:
    world = Simulation()
    plan = world.reconcile()
    assert not plan.decisive, "a record needs no live reads: its write fails if the run has changed"
    plan = world.reconcile()
    kinds = [action.body["kind"] for action in plan.actions if isinstance(action, Create)]
    assert kinds == ["ConfigMap", "Job"]
    assert plan.decisive
    assert world.created == [PREPARE]
    assert world.condition("Accepted") is None, "of the first Job is told when every run has its own"
    assert plan.requeue_after == timedelta()
    plan = world.reconcile()
    assert not plan.actions
    assert not plan.decisive, "the Job is in the cache: the API server need not be asked"
    assert world.condition("Accepted") == ("True", "Accepted")
    assert world.condition("Prepared") == ("False", "Preparing")
    assert world.condition("Reconciling") == ("True", "Preparing")
    assert world.condition("Running") is None, "Running appears with the first train Job"
    assert world.run.status.class_name == "h100"


def test_prepare_and_train_follow_each_other_and_the_run_completes() -> None:
    world = complete()
    status = world.run.status
    assert world.created == [PREPARE, TRAIN]
    assert world.condition("Ready") == ("True", "AdapterPublished")
    assert world.condition("Finished") == ("True", "AdapterPublished")
    assert world.condition("Running") == ("False", "AdapterPublished")
    assert world.condition("Reconciling") is None
    assert status.artifact == an_artifact()
    assert status.completion_time == world.now
    assert status.usage is not None
    assert status.usage.accelerator_seconds == 600
    assert "1.900 -> 0.600" in world.message
    assert world.events == ["Preparing", "Prepared", "Starting", "Training", "AdapterPublished"]


def test_what_prepare_found_is_shown() -> None:
    status = starting().run.status
    assert status.dataset is not None
    assert status.dataset.kept == 940
    assert status.model is not None
    assert status.chosen is not None
    assert status.estimate is not None
    assert status.run_digest == "d" * 64


def told_of(**data: Any) -> str:
    """What the condition Prepared says of a dataset with these figures."""
    result = prepare_result()
    result = result.model_copy(update={"dataset": result.dataset.model_copy(update=data)})
    world = preparing()
    world.start(PREPARE)
    world.end(PREPARE, 0, encode_outcome(Outcome(reason="Succeeded", message="Done.", result=result)))
    world.settle()
    return next(entry.message for entry in world.run.status.conditions if entry.type == "Prepared")


def test_rows_that_were_left_out_as_unusable_are_told() -> None:
    told = told_of(dropped=(DroppedRows(reason="BadRow", rows=7),), report="s3://platform/runs/data-report.json")
    assert told.endswith(" 7 unusable rows are left out; s3://platform/runs/data-report.json lists them.")
    assert "left out" not in told_of(), "rows dropped for other reasons are no news"


def test_columns_that_change_nothing_are_told() -> None:
    told = told_of(unused=(Unused(name="messages[user].name", rows=12), Unused(name="source", rows=1000)))
    assert told.endswith(
        " These columns and keys of the rows change nothing of what is trained: messages[user].name (12 rows),"
        " source (1000 rows)."
    )
    assert "change nothing" not in told_of()


def test_only_a_plan_that_creates_or_closes_or_ends_needs_live_reads() -> None:
    world = preparing()
    assert not world.reconcile().decisive, "waiting costs no reads"
    world.end(PREPARE, ExitCode.StorageUnavailable)
    assert world.reconcile().decisive, "an attempt is closed"


def test_an_adapter_that_is_there_already_is_not_trained_again() -> None:
    world = preparing()
    world.end(PREPARE, 0, prepared_text(artifact=an_artifact()))
    world.settle()
    assert world.condition("Finished") == ("True", "AdapterReused")
    assert world.created == [PREPARE]
    assert world.run.status.evaluation is not None


def test_a_status_that_fits_is_not_changed_by_another_turn() -> None:
    for make in (preparing, starting, training, complete, failed):
        world = make()
        before = world.run.status
        world.pass_time(1)
        plan = world.reconcile()
        assert (plan.actions, plan.events) == ((), ()), make.__name__
        assert plan.status == before, make.__name__


def test_a_pod_that_has_ended_says_nothing_new_until_the_job_controller_has_spoken() -> None:
    world = training()
    before = world.run.status
    world.end(TRAIN, ExitCode.DatasetInvalid, failed_text(ExitCode.DatasetInvalid))
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished=None)
    assert world.reconcile().status == before
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished="Failed")
    world.settle()
    assert world.reason == "DatasetInvalid"


def test_a_success_counts_before_the_job_controller_has_spoken() -> None:
    world = training()
    world.end(TRAIN, 0, trained_text())
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished=None)
    world.settle()
    assert world.reason == "AdapterPublished"


# --- crashes ------------------------------------------------------------------------------------------------------


def test_a_job_without_a_record_is_found_again() -> None:
    world = Simulation()
    world.reconcile(lose_status=True)
    world.settle()
    assert world.created == [PREPARE]
    assert [(a.stage, a.number) for a in world.run.status.attempts] == [(Stage.PREPARE, 1)]
    world.end(PREPARE, 0, prepared_text())
    world.reconcile(lose_status=True)
    world.settle()
    assert world.created == [PREPARE, TRAIN]


def test_a_completion_whose_status_was_lost_is_reached_again() -> None:
    world = training()
    world.end(TRAIN, 0, trained_text())
    world.reconcile(lose_status=True)
    world.settle()
    assert world.condition("Finished") == ("True", "AdapterPublished")
    assert world.created == [PREPARE, TRAIN]


def test_deleting_ends_all_planning() -> None:
    world = training()
    world.run = replace(world.run, deleting=True)
    plan = world.reconcile()
    assert (plan.actions, plan.status) == ((), world.run.status)


# --- terminal is terminal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [complete, failed])
def test_nothing_is_started_again_after_the_end(make) -> None:
    world = make()
    created, status = list(world.created), world.run.status
    world.jobs.clear()
    world.resolved = None
    world.classes = ()
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False, retry_limit=20)
    world.pass_time(100_000)
    world.settle(taken=TakenName(child="Job x"), output_holder=("team-b", "other"))
    assert world.created == created
    assert world.run.status.completion_time == status.completion_time
    kept = [(c.type, c.status, c.reason, c.last_transition_time) for c in status.conditions]
    assert [(c.type, c.status, c.reason, c.last_transition_time) for c in world.run.status.conditions] == kept


@pytest.mark.parametrize("make", [complete, failed])
def test_an_edit_after_the_end_is_observed(make) -> None:
    world = make()
    world.edit(job_retention_seconds=3600)
    world.settle()
    assert world.run.status.observed_generation == 2
    assert {condition.observed_generation for condition in world.run.status.conditions} == {2}


def test_a_job_that_still_runs_after_the_end_is_stopped() -> None:
    world = complete()
    world.jobs[TRAIN_2] = replace(world.jobs[TRAIN], name=TRAIN_2, attempt=2, finished=None, pods=())
    plan = world.reconcile()
    assert [action.name for action in plan.actions if isinstance(action, Delete)] == [TRAIN_2]


WEEK = 7 * 24 * 3600


@pytest.mark.parametrize(
    ("spec", "classes", "seconds"),
    [
        ({"jobRetentionSeconds": 3600}, (a_class(jobRetentionSeconds=60),), 3600),
        ({}, (a_class(jobRetentionSeconds=60),), 60),
        ({}, (a_class(),), WEEK),
        ({}, (), WEEK),
        ({}, (a_class(invalid="no"),), WEEK),
    ],
    ids=["the run's", "the class's", "the class's default", "the class is gone", "the class is invalid"],
)
def test_children_go_after_the_ttl_and_not_before(spec: Body, classes: tuple[ClassView, ...], seconds: int) -> None:
    world = training(**spec)
    world.classes = classes
    world.end(TRAIN, 0, trained_text())
    plan = world.reconcile()
    assert plan.requeue_after == timedelta(seconds=seconds)
    world.pass_time(seconds - 1)
    plan = world.reconcile()
    assert (plan.actions, plan.requeue_after) == ((), timedelta(seconds=1))
    world.pass_time(1)
    plan = world.reconcile()
    assert all(isinstance(action, Delete) for action in plan.actions)
    assert (world.jobs, world.resolved) == ({}, None)
    assert world.reconcile().actions == ()
    assert world.reason == "AdapterPublished"


# --- class and output ---------------------------------------------------------------------------------------------


def test_a_class_that_changes_or_goes_does_not_touch_a_run_that_has_begun() -> None:
    world = preparing()
    resolved = world.resolved
    spec = LoraFineTuneClassSpec.model_validate(
        class_spec(
            image="another:1",
            pod={"env": [{"name": "NEW", "value": "1"}]},
            train={"nodeSelector": {"gpu": "other"}},
            modelCache={"claimName": "new"},
            defaults={"training": {"maxSteps": 1}},
            limits={"r": 1, "maxSteps": 1, "maxRuntimeSeconds": 60},
            allowed={"models": ["other/*"]},
        )
    )
    world.classes = (replace(a_class(), spec=spec),)
    world.end(PREPARE, 0, prepared_text())
    plan = world.reconcile()
    job = next(a.body for a in plan.actions if isinstance(a, Create) and a.body["kind"] == "Job")
    assert resolved is not None
    assert job == stage_job(StageRequest(run=world.run, resolved=resolved, stage=Stage.TRAIN, attempt=1))
    world.classes = ()
    world.start(TRAIN)
    world.settle()
    assert world.reason == "Training"


def test_a_run_that_has_begun_keeps_its_output() -> None:
    world = preparing()
    world.settle(output_holder=("team-a", "older"))
    assert world.reason == "Preparing"
