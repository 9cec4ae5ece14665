"""The planner when something holds pods back: it says so, and goes on when that is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.observed import Refusal
from lora_trainer.contract.exits import ExitCode

from tests.builders import prepared_text
from tests.unit.operator.simulation import PREPARE, TRAIN, Simulation, preparing, starting

TROUBLES = [
    ({"waiting_reason": "ImagePullBackOff", "waiting_message": "not found"}, "ImagePullFailed", "Stalled"),
    ({"waiting_reason": "ErrImagePull", "waiting_message": "denied"}, "ImagePullFailed", "Stalled"),
    ({"waiting_reason": "InvalidImageName", "waiting_message": "bad"}, "ImagePullFailed", "Stalled"),
    (
        {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "bucket" not found'},
        "SecretNotFound",
        "Stalled",
    ),
    (
        {"waiting_reason": "CreateContainerConfigError", "waiting_message": "couldn't find key K in Secret team-a/b"},
        "SecretNotFound",
        "Stalled",
    ),
    ({"waiting_reason": "CreateContainerError", "waiting_message": "no such device"}, "PodConfigInvalid", "Stalled"),
    ({"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}, "Unschedulable", "Reconciling"),
]


@pytest.mark.parametrize(("pod", "reason", "companion"), TROUBLES)
@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_what_holds_a_pod_back_is_said_and_heals(
    stage: Stage, pod: dict[str, str], reason: str, companion: str
) -> None:
    world, job = (preparing(), PREPARE) if stage is Stage.PREPARE else (starting(), TRAIN)
    created = list(world.created)
    world.change_pod(job, **pod)
    world.settle()
    assert world.condition("Ready") == ("False", reason)
    assert world.condition(companion) == ("True", reason)
    assert next(iter(pod.values())) not in ("", None)
    assert list(pod.values())[-1] in world.message
    assert world.events[-1] == reason
    healed = dict.fromkeys(pod, None) | ({"waiting_message": ""} if "waiting_message" in pod else {})
    world.change_pod(job, **healed)
    world.start(job)
    world.settle()
    assert world.reason == ("Preparing" if stage is Stage.PREPARE else "Training")
    assert world.condition("Stalled") is None
    assert world.created == created


def test_container_creating_is_no_trouble() -> None:
    world = starting()
    world.change_pod(TRAIN, waiting_reason="ContainerCreating")
    before = world.run.status
    world.pass_time(1)
    assert world.reconcile().status == before


def test_a_job_that_a_queue_holds_back_is_queued() -> None:
    world = starting()
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=True, pods=())
    world.settle()
    assert world.condition("Suspended") == ("True", "Queued")
    assert world.condition("Ready") == ("False", "Queued")
    assert world.condition("Stalled") is None
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=False)
    world.settle()
    assert world.condition("Suspended") == ("False", "NotSuspended")
    assert world.reason == "Starting"


REFUSALS = [
    (
        'Error creating: pods "text-to-sql-train-1-xk2lp" is forbidden: exceeded quota: team, requested: pods=1',
        "QuotaExceeded",
        "Reconciling",
        "the pod of Job {job}: exceeded quota: team, requested: pods=1.",
    ),
    (
        'Error creating: pods "text-to-sql-train-1-xk2lp" is forbidden: violates PodSecurity "restricted:latest"',
        "PodRefused",
        "Stalled",
        'the pod of Job {job}: violates PodSecurity "restricted:latest".',
    ),
    (
        'Error creating: admission webhook "images.example" denied the request: unsigned image',
        "PodRefused",
        "Stalled",
        'the pod of Job {job}: admission webhook "images.example" denied the request: unsigned image.',
    ),
    (
        'Error creating: Internal error occurred: failed calling webhook "images.example": no endpoints',
        "PodRefused",
        "Reconciling",
        'the pod of Job {job}: Internal error occurred: failed calling webhook "images.example": no endpoints.',
    ),
]


@pytest.mark.parametrize(("refusal", "reason", "companion", "says"), REFUSALS)
@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_why_a_job_has_no_pod_is_said_and_heals(
    stage: Stage, refusal: str, reason: str, companion: str, says: str
) -> None:
    world, job = (preparing(), PREPARE) if stage is Stage.PREPARE else (starting(), TRAIN)
    pods = world.jobs[job].pods
    world.jobs[job] = replace(world.jobs[job], pods=())
    assert world.settle().requeue_after == timedelta(seconds=3), "somebody has to ask why"
    world.jobs[job] = replace(world.jobs[job], pod_refusal=refusal)
    assert world.settle().requeue_after == timedelta(seconds=10)
    assert world.condition("Ready") == ("False", reason)
    assert world.condition(companion) == ("True", reason)
    assert says.format(job=job) in world.message
    assert world.events[-1] == reason
    world.jobs[job] = replace(world.jobs[job], pods=pods)
    world.start(job)
    world.settle()
    assert world.reason == ("Preparing" if stage is Stage.PREPARE else "Training")


@pytest.mark.parametrize(
    ("why", "reason", "companion"),
    [
        (
            'jobs.batch "x" is forbidden: exceeded quota: team, requested: count/jobs.batch=1',
            "QuotaExceeded",
            "Reconciling",
        ),
        ('Job.batch "x" is invalid: spec.template: not so', "ChildRefused", "Stalled"),
        ('Internal error occurred: failed calling webhook "queues": no endpoints', "ChildRefused", "Reconciling"),
    ],
)
@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_a_child_that_the_api_server_refuses_is_told_of_and_tried_again(
    stage: Stage, why: str, reason: str, companion: str
) -> None:
    world = Simulation() if stage is Stage.PREPARE else preparing()
    if stage is Stage.TRAIN:
        world.end(PREPARE, ExitCode.Succeeded, prepared_text())
    before = list(world.created)
    refused = Refusal(child="Job x", why=why)
    plan = world.reconcile(child_refusal=refused)
    assert plan.requeue_after is not None
    assert plan.requeue_after >= timedelta(seconds=3)
    assert world.created == before
    assert world.condition("Ready") == ("False", reason)
    assert world.condition(companion) == ("True", reason)
    assert f"Job x: {why}." in world.message
    world.settle()
    assert len(world.created) == len(before) + 1
