"""How long the pods of an attempt run, whatever becomes of them in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from lora_operator.api.lorafinetune import Attempt
from lora_operator.naming import Stage
from lora_operator.planning.running_time import still_running
from lora_trainer.contract.exits import ExitCode

from tests.builders import a_dead_pod, a_job, a_pod, a_running_pod, after, failed_text
from tests.unit.operator.simulation import TRAIN, TRAIN_2, Simulation, training
from tests.unit.operator.test_plan_attempts import silent_for


def record(**fields: object) -> Attempt:
    return Attempt(stage=Stage.TRAIN, number=1).model_copy(update=fields)


BEGUN = {"start_time": after(0), "node": "node-1"}
DEAD = a_dead_pod(code=40, started=after(0), finished=after(60))

CASES = [
    ("a first pod", {}, a_job(pods=(a_running_pod(started=after(5)),)), (after(5), None, None)),
    ("no pod yet", {}, a_job(pods=(a_pod(),)), (None, None, None)),
    ("the same pod", BEGUN, a_job(pods=(a_running_pod(),)), (after(0), None, None)),
    ("a pod that ended", BEGUN, a_job(pods=(DEAD,)), (after(0), after(60), 60)),
    ("its replacement waits", BEGUN, a_job(pods=(DEAD, a_pod(created=after(70)))), (after(0), after(60), 60)),
    (
        "its replacement runs",
        BEGUN | {"end_time": after(60), "duration_seconds": 60},
        a_job(pods=(DEAD, a_running_pod(created=after(70), started=after(500)))),
        (after(500), None, 60),
    ),
    (
        "a watch that shows an earlier pod",
        BEGUN,
        a_job(pods=(a_running_pod(created=after(-90), started=after(-60)),)),
        (after(0), None, None),
    ),
    (
        "both happened unseen",
        BEGUN,
        a_job(pods=(a_running_pod(created=after(70), started=after(500)),)),
        (after(500), None, 70),
    ),
    ("a queue took it back", BEGUN, a_job(suspended=True, suspended_since=after(900)), (after(0), after(900), 900)),
    (
        "a queue takes it back",
        BEGUN,
        a_job(suspended=True, suspended_since=after(900), pods=(a_running_pod(),)),
        (after(0), None, None),
    ),
    ("a queue wants it back", BEGUN, a_job(suspended=True), (after(0), None, None)),
    ("a watch is behind", BEGUN, a_job(), (after(0), None, None)),
    (
        "the clock stands already",
        BEGUN | {"end_time": after(60), "duration_seconds": 60},
        a_job(suspended=True, suspended_since=after(80)),
        (after(0), after(60), 60),
    ),
]


@pytest.mark.parametrize(("fields", "job", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_clock_is_on_the_pod_that_runs(fields: dict, job, expected: tuple) -> None:
    seen = still_running(record(**fields), job, now=after(5000))
    assert (seen.start_time, seen.end_time, seen.duration_seconds) == expected
    assert still_running(seen, job, now=after(5000)) == seen, "nothing counts twice"


def preempt(world: Simulation, *, seconds: float) -> None:
    """A queue takes the pod's place away for so long."""
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=True, suspended_since=world.now, pods=())
    world.pass_time(seconds)
    world.settle()
    assert world.reason == "Queued"
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=False, suspended_since=None)
    world._new_pod(TRAIN)
    world.settle()
    world.start(TRAIN)
    world.settle()


def test_a_preempted_run_neither_pays_nor_runs_out_of_time_while_it_waits() -> None:
    world = training(maxRuntimeSeconds=200)
    world.pass_time(100)
    preempt(world, seconds=7200)
    assert world.reason == "Training"
    world.pass_time(70)
    world.settle()
    assert world.reason == "Training", "20 s of prepare, 100 s before and 70 s after"
    world.pass_time(10)
    world.settle()
    assert world.reason == "DeadlineExceeded"
    attempt = world.run.status.attempts[-1]
    assert attempt.duration_seconds == 180
    assert world.run.status.usage is not None
    assert world.run.status.usage.accelerator_seconds == 180


def test_replaced_pods_add_up() -> None:
    world = training()
    for ran in (100, 30):
        world.pass_time(ran)
        world.end(TRAIN, ExitCode.Interrupted, failed_text(ExitCode.Interrupted))
        world.settle()
        world.pass_time(600)
        world.start(TRAIN)
        world.settle()
    world.pass_time(7)
    world.end(TRAIN, ExitCode.Diverged, failed_text(ExitCode.Diverged))
    world.settle()
    assert world.run.status.attempts[-1].duration_seconds == 137


def test_an_attempt_that_has_failed_and_is_not_closed_yet_is_not_overdue() -> None:
    world = training(maxRuntimeSeconds=100)
    world.pass_time(60)
    world.end(TRAIN, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable))
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished=None)
    world.settle()
    assert world.reason == "Training", "20 s of prepare and 60 s are not 100 s"
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished="Failed")
    world.settle()
    assert world.reason == "BackingOff"


@pytest.mark.parametrize("how", ["stuck", "suspended and resumed"])
def test_a_pod_that_takes_long_to_stop_is_not_counted_twice(how: str) -> None:
    world = training(maxRuntimeSeconds=1200)
    world.slow_deletion = True
    world.pass_time(900)
    if how == "stuck":
        world.settle(polled=silent_for(900, pod=f"{TRAIN}-2"))
    else:
        world.edit(suspend=True)
        world.settle()
        world.edit(suspend=False)
    world.pass_time(60)
    world.settle()
    assert world.reason in ("NoProgress", "Stopping")
    assert not world.run.status.terminal
    world.finish_deletions()
    world.settle()
    world.start(TRAIN_2)
    assert world.reconcile().requeue_after == timedelta(seconds=280), "20 s of prepare and 900 s are gone"
