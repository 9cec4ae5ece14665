"""How pods end when it is not the trainer that ends them: lost nodes, evictions, rejections, and sidecars."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from lora_operator.naming import CONTAINER, RUN_UID_LABEL, Stage
from lora_operator.planning.observed import PodView
from lora_operator.planning.plan import Delete
from lora_operator.planning.reading import pod_view
from lora_operator.planning.running_time import NODE_PATIENCE
from lora_trainer.contract.exits import ExitCode

from tests.builders import (
    NAMESPACE,
    UID,
    a_dead_pod,
    a_running_pod,
    after,
    failed_text,
    prepared_text,
    stamp,
    trained_text,
)
from tests.unit.operator.simulation import (
    PREPARE,
    TRAIN,
    TRAIN_2,
    Simulation,
    complete,
    preparing,
    starting,
    training,
)

PATIENCE = int(NODE_PATIENCE.total_seconds())


def lose_node(world: Simulation, job: str = TRAIN) -> None:
    """Somebody deletes the pod, its grace period passes, and nothing is heard of it."""
    world.change_pod(job, delete_by=world.now)
    world.pass_time(PATIENCE)


# --- lost nodes ---------------------------------------------------------------------------------------------------


def test_a_pod_that_does_not_end_is_told_with_the_remedy() -> None:
    world = training()
    world.change_pod(TRAIN, delete_by=world.now)
    plan = world.settle()
    assert world.reason == "Training", "its node has time to end it"
    assert plan.requeue_after == NODE_PATIENCE
    world.pass_time(PATIENCE)
    world.settle()
    assert world.condition("Stalled") == ("True", "NodeLost")
    assert world.condition("Running") == ("False", "NodeLost")
    assert "kubectl taint nodes node-1 node.kubernetes.io/out-of-service=down:NoExecute" in world.message
    assert world.live_train_jobs == [TRAIN], "no other trainer starts"
    world.pass_time(1_000_000)
    before = world.run.status
    plan = world.settle()
    assert (world.run.status, plan.actions) == (before, ()), "whatever time passes"


def test_it_heals_when_the_pod_is_gone() -> None:
    world = training()
    lose_node(world)
    world.settle()
    world.pass_time(7200)
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], pods=())
    world._new_pod(TRAIN)
    world.start(TRAIN)
    world.settle()
    assert (world.reason, world.condition("Stalled")) == ("Training", None)
    assert world.run.status.attempts[-1].duration_seconds == 0, "nobody pays for a node that was lost"


def test_it_heals_when_the_node_comes_back() -> None:
    world = training()
    lose_node(world)
    world.settle()
    world.end(TRAIN, ExitCode.Interrupted, failed_text(ExitCode.Interrupted))
    world.start(TRAIN)
    world.settle()
    assert (world.reason, world.condition("Stalled")) == ("Training", None)


def test_a_lost_node_uses_up_no_deadline() -> None:
    world = training(maxRuntimeSeconds=600)
    world.pass_time(100)
    lose_node(world)
    world.pass_time(100_000)
    world.settle()
    assert world.reason == "NodeLost"


@pytest.mark.parametrize("what", ["suspended by its user", "stopped as stuck", "suspended by a queue"])
def test_pods_that_are_stopped_on_purpose_may_be_lost_too(what: str) -> None:
    world = training()
    world.slow_deletion = True
    if what == "suspended by its user":
        world.edit(suspend=True)
        world.settle()
        assert world.jobs[TRAIN].deleting
    elif what == "stopped as stuck":
        world.edit(max_runtime_seconds=60)
        world.pass_time(100)
        world.settle()
        assert world.jobs[TRAIN].deleting
    else:
        world.jobs[TRAIN] = replace(world.jobs[TRAIN], suspended=True, suspended_since=world.now)
    lose_node(world)
    world.settle()
    assert world.condition("Stalled") == ("True", "NodeLost")
    assert not world.run.status.terminal


def test_a_lost_pod_whose_job_was_deleted_is_told_too() -> None:
    world = training()
    world.delete_job(TRAIN)
    pod = a_running_pod(started=world.now, delete_by=world.now)
    world.settle(orphans=(pod,))
    world.pass_time(60)
    world.settle(orphans=(pod,))
    assert world.reason == "Stopping"
    world.pass_time(PATIENCE)
    world.settle(orphans=(pod,))
    assert world.condition("Stalled") == ("True", "NodeLost")
    assert world.live_train_jobs == []
    world.settle()
    assert world.reason == "Starting"


# --- sidecars ----------------------------------------------------------------------------------------------------


def end_beside_another(world: Simulation, code: int, text: str) -> None:
    """The trainer ends; another container goes on, so that neither pod nor Job ends."""
    world.end(TRAIN, code, text)
    world.change_pod(TRAIN, phase="Running", beside=("istio-proxy",))
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished=None)


def test_a_container_that_keeps_the_pod_running_is_named() -> None:
    world = training()
    end_beside_another(world, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable))
    plan = world.reconcile()
    assert (world.reason, plan.requeue_after) == ("Training", timedelta(minutes=1)), "it may end by itself"
    world.pass_time(60)
    world.settle()
    assert world.condition("Stalled") == ("True", "SidecarRunning")
    assert "container istio-proxy keeps the pod running" in world.message
    world.change_pod(TRAIN, phase="Failed", beside=())
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished="Failed")
    world.settle()
    assert (world.reason, world.condition("Stalled")) == ("Starting", None)
    assert world.run.status.of(Stage.TRAIN)[0].reason == "StorageUnavailable"


def test_a_finished_run_holds_no_accelerator_for_a_side_car() -> None:
    world = training()
    end_beside_another(world, 0, trained_text())
    plan = world.settle()
    assert world.reason == "AdapterPublished"
    assert (plan.actions, plan.requeue_after) == ((), timedelta(minutes=1))
    world.pass_time(60)
    plan = world.reconcile()
    assert [action.name for action in plan.actions if isinstance(action, Delete)] == [TRAIN]
    assert PREPARE in world.jobs


def test_jobs_that_have_ended_stay_for_as_long_as_they_should() -> None:
    world = complete()
    world.pass_time(3600)
    assert world.reconcile().actions == ()


# --- what the kubelet says ----------------------------------------------------------------------------------------

BEYOND = {"reason": "Evicted", "message": 'Usage of EmptyDir volume "scratch" exceeds the limit "20Gi". '}
LOW = {
    "reason": "Evicted",
    "message": "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 500Mi. Container "
    "trainer was using 90Gi, request is 0, has larger consumption of ephemeral-storage. ",
}


def die(world: Simulation, code: int, **fields: Any) -> None:
    dead = a_dead_pod(code=code, started=world.now, finished=world.now)
    world.change_pod(TRAIN, phase="Failed", termination=dead.termination, **fields)
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished="Failed")
    world.settle()


@pytest.mark.parametrize(
    "message",
    [
        BEYOND["message"],
        'Container trainer exceeded its local ephemeral storage limit "20Gi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. ",
    ],
)
def test_a_pod_that_wrote_too_much_is_told_so_and_retried_once(message: str) -> None:
    world = training(retryLimit=20)
    die(world, 137, reason="Evicted", message=message)
    assert world.run.status.attempts[-1].reason == "OutOfEphemeralStorage"
    assert message.strip() in world.message
    world.pass_time(10)
    world.settle()
    world.end(TRAIN_2, 137)
    world.change_pod(TRAIN_2, reason="Evicted", message=message)
    world.settle()
    assert world.condition("Finished") == ("True", "OutOfEphemeralStorage")
    assert "class with more scratch" in world.message


def test_an_eviction_is_not_told_as_a_signal() -> None:
    world = training()
    die(world, 137, **LOW)
    record = world.run.status.attempts[-1]
    assert (record.reason, record.exit_class) == ("Killed", "Infrastructure")
    assert record.message is not None
    assert "The node was low on resource: ephemeral-storage." in record.message
    assert "signal" not in record.message


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (
            "UnexpectedAdmissionError",
            "Allocate failed due to no healthy devices present: nvidia.com/gpu",
        ),
        ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 4000, used: 3000, capacity: 4000"),
        ("NodeAffinity", "Predicate NodeAffinity failed"),
        ("NodeShutdown", "Pod was rejected as the node is shutting down."),
    ],
)
def test_a_pod_that_its_node_rejects_is_told_and_retried(reason: str, message: str) -> None:
    world = starting(retryLimit=1)
    world.change_pod(TRAIN, phase="Failed", node="node-7", scheduled=world.now, reason=reason, message=message)
    world.jobs[TRAIN] = replace(world.jobs[TRAIN], finished="Failed")
    world.settle()
    record = world.run.status.attempts[-1]
    assert (record.reason, record.exit_class) == ("PodRejected", "Infrastructure")
    assert record.message is not None
    assert "node-7" in record.message
    assert f"{reason}: {message}" in record.message
    assert world.reason == "BackingOff"


# --- what is read from the pod ------------------------------------------------------------------------------------


def body(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    owner = {"kind": "Job", "uid": "uid-job", "controller": True}
    labels = {RUN_UID_LABEL: UID}
    metadata |= {
        "name": "pod",
        "namespace": NAMESPACE,
        "labels": labels,
        "creationTimestamp": stamp(after(0)),
        "ownerReferences": [owner],
    }
    return {"metadata": metadata, "spec": {"nodeName": "node-1", "containers": []}, "status": status}


def view(status: dict[str, Any], **metadata: Any) -> PodView:
    return pod_view(body(status, **metadata))


def test_the_time_of_a_pod_begins_with_its_node() -> None:
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(after(30))}
    assert view({"conditions": [bound]}).scheduled == after(30)
    assert view({"conditions": [bound | {"status": "False"}]}).scheduled is None
    assert view({}).scheduled is None


def test_who_ended_the_pod_is_read() -> None:
    assert view({"reason": "Evicted", "message": "Too much. "}).why == "Evicted: Too much."
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "evicting"}
    assert view({"conditions": [drained]}).why == "EvictionByEvictionAPI: evicting"
    assert view({}).why == ""
    assert view({}, deletionTimestamp=stamp(after(60))).delete_by == after(60)


def test_only_containers_beside_the_trainer_that_run_keep_it() -> None:
    running = {"running": {"startedAt": stamp(after(0))}}
    statuses = [
        {"name": CONTAINER, "state": running},
        {"name": "proxy", "state": running},
        {"name": "once", "state": {"terminated": {"exitCode": 0, "finishedAt": stamp(after(9))}}},
    ]
    native = [{"name": "native", "state": running}]
    assert view({"containerStatuses": statuses, "initContainerStatuses": native}).beside == ("proxy",)


def test_the_side_car_of_a_prepare_pod_does_not_hold_up_the_run() -> None:
    world = preparing()
    world.end(PREPARE, 0, prepared_text())
    world.change_pod(PREPARE, phase="Running", beside=("istio-proxy",))
    world.jobs[PREPARE] = replace(world.jobs[PREPARE], finished=None)
    world.settle()
    assert world.created == [PREPARE, TRAIN]
