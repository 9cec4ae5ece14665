"""The planner when runs fail for good: by their own fault, or at their deadline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from lora_trainer.contract.exits import ExitCode

from tests.builders import a_class, an_artifact, failed_text, prepare_result, train_result
from tests.unit.operator.simulation import (
    PREPARE,
    TRAIN,
    TRAIN_2,
    Simulation,
    fail_train,
    preparing,
    starting,
    training,
)

USER_ERRORS = [code for code in ExitCode if 10 <= code <= 29]


# --- user errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", USER_ERRORS, ids=lambda code: code.name)
def test_a_user_error_in_prepare_fails_the_run_at_once_and_takes_no_accelerator(code: ExitCode) -> None:
    world = preparing()
    text = failed_text(code, message="Line 7 of train.jsonl is not JSON.", remedy="Mend line 7.")
    world.end(PREPARE, code, text)
    world.settle()
    assert world.condition("Finished") == ("True", code.name)
    assert world.condition("Stalled") == ("True", code.name)
    assert world.condition("Prepared") == ("False", code.name)
    assert world.message.startswith("Line 7 of train.jsonl is not JSON. Mend line 7.")
    assert world.created == [PREPARE]
    assert world.events == ["Preparing", code.name], "one Event says it"


@pytest.mark.parametrize(
    ("needed", "says"),
    [
        (30.0, "The smallest LoraFineTuneClass that fits is a40 (48 GiB)."),
        (80.0, "The smallest LoraFineTuneClass that fits is h100 (80 GiB)."),
        (90.0, "No LoraFineTuneClass fits; the largest is h100 (80 GiB)."),
    ],
)
def test_a_run_that_does_not_fit_is_told_where_it_would(needed: float, says: str) -> None:
    world = preparing()
    accelerator = {"gpu": {"memory": "48Gi"}}
    world.classes = (*world.classes, a_class("a40", default=False, accelerator=accelerator), a_class("x", invalid="y"))
    world.end(PREPARE, ExitCode.DoesNotFit, failed_text(ExitCode.DoesNotFit, needed_memory_gib=needed))
    world.settle()
    assert world.condition("Finished") == ("True", "DoesNotFit")
    assert world.message.endswith(says)


@pytest.mark.parametrize("code", USER_ERRORS, ids=lambda code: code.name)
def test_a_user_error_in_train_fails_the_run_at_once(code: ExitCode) -> None:
    world = training()
    fail_train(world, code)
    assert world.condition("Finished") == ("True", code.name)
    assert world.condition("Running") == ("False", code.name)
    assert world.condition("Prepared") == ("True", "Prepared"), "what was true stays true"
    assert world.created == [PREPARE, TRAIN]


def test_an_adapter_that_missed_its_gate_is_shown_and_never_trained_again() -> None:
    world = training()
    text = failed_text(ExitCode.QualityGateFailed, message="Loss 0.6 is above 0.5.", step=600, result=train_result())
    fail_train(world, ExitCode.QualityGateFailed, text=text)
    status = world.run.status
    assert world.condition("Finished") == ("True", "QualityGateFailed")
    assert (status.artifact, status.evaluation) == (train_result().artifact, train_result().evaluation)
    assert status.usage is not None
    assert world.message.startswith("Loss 0.6 is above 0.5.")
    world.pass_time(3600)
    world.settle()
    assert world.created == [PREPARE, TRAIN]


def test_an_adapter_that_missed_its_gate_before_fails_the_run_without_an_accelerator() -> None:
    world = preparing()
    result = prepare_result(artifact=an_artifact())
    world.end(PREPARE, ExitCode.QualityGateFailed, failed_text(ExitCode.QualityGateFailed, result=result))
    world.settle()
    assert world.condition("Finished") == ("True", "QualityGateFailed")
    assert world.condition("Prepared") == ("True", "Prepared")
    assert world.run.status.artifact == an_artifact()
    assert world.run.status.evaluation is not None
    assert world.created == [PREPARE]


# --- deadline -----------------------------------------------------------------------------------------------------


def test_the_deadline_counts_from_the_start_of_the_pod() -> None:
    world = training(maxRuntimeSeconds=100)
    plan = world.reconcile()
    assert plan.requeue_after == timedelta(seconds=80), "prepare took 20 s"
    world.pass_time(80)
    world.settle()
    assert world.condition("Finished") == ("True", "DeadlineExceeded")
    assert world.live_train_jobs == []
    assert "100 s" in world.message


@pytest.mark.parametrize("begin", [preparing, training], ids=["prepare", "train"])
def test_a_run_past_its_deadline_fails_when_its_pod_has_stopped(begin: Callable[..., Simulation]) -> None:
    world = begin(maxRuntimeSeconds=60)
    world.slow_deletion = True
    [job] = [job.name for job in world.jobs.values() if not job.over]
    world.start(job)
    world.pass_time(60)
    plan = world.reconcile()
    assert (plan.actions, plan.requeue_after, world.reason) == ((), timedelta(), "Stopping")
    assert world.run.status.attempts[-1].reason == "DeadlineExceeded", "on record before the Job is deleted"
    world.settle()
    assert world.jobs[job].deleting
    assert not world.run.status.terminal, "the Job may yet get another pod"
    world.finish_deletions()
    world.settle()
    assert world.condition("Finished") == ("True", "DeadlineExceeded")
    assert world.run.status.attempts[-1].reason == "DeadlineExceeded"


def test_queues_pauses_and_suspension_are_free() -> None:
    world = starting(maxRuntimeSeconds=100)
    world.pass_time(3600)
    world.settle()
    assert world.reason == "Starting"
    world.start(TRAIN)
    world.pass_time(10)
    world.settle()
    world.edit(suspend=True)
    world.settle()
    world.pass_time(3600)
    world.edit(suspend=False)
    world.settle()
    world.start(TRAIN_2)
    plan = world.reconcile()
    assert plan.requeue_after == timedelta(seconds=70)


def test_a_longer_deadline_is_heard() -> None:
    world = training(maxRuntimeSeconds=100)
    world.edit(max_runtime_seconds=200)
    world.pass_time(80)
    world.settle()
    assert world.reason == "Training"
