"""The planner and runs on several nodes: one pod's end is the end of all, and what it was decides what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from lora_operator.naming import ATTEMPT_LABEL, INDEX_ANNOTATION, RUN_KIND, RUN_UID_LABEL, STAGE_LABEL, Stage
from lora_operator.planning.attempts import stage_state
from lora_operator.planning.observed import PodView
from lora_operator.planning.plan import Create
from lora_operator.planning.reading import job_view, pod_view
from lora_trainer.contract.exits import ExitClass, ExitCode
from lora_trainer.contract.outcome import Outcome, encode_outcome

from tests.builders import (
    NAME,
    NAMESPACE,
    UID,
    a_class,
    a_dead_pod,
    a_job,
    a_run,
    a_running_pod,
    after,
    an_observation,
    failed_text,
    prepared_text,
    trained_text,
)
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation

SERVICE = f"nodes-{NAME}"
NODES: dict[str, Any] = {"parallelism": {"nodes": 2}}
CLASS = a_class(limits={"nodes": 2}, defaults={"queueName": "gpus"})
SHARE = encode_outcome(Outcome(reason="Succeeded", message="This node took its share of every step."))

End = dict[str, Any]
"""How a pod ended: the fields of a_dead_pod."""

DISRUPTED = {"disrupted": True}
OOM: End = {"code": 30, "text": failed_text(ExitCode.OutOfMemory, step=7)}
USER: End = {"code": 13, "text": failed_text(ExitCode.ModelNotFound)}
STORAGE: End = {"code": 50, "text": failed_text(ExitCode.StorageUnavailable)}
STOPPED: End = {"code": 40, "text": failed_text(ExitCode.Interrupted, step=12)}
ALONE: End = {"code": 55, "text": failed_text(ExitCode.PeerLost, step=12)}
BUG: End = {"code": 1, "text": failed_text(ExitCode.InternalError)}
KILLED: End = {"code": 137}
HOST_OOM: End = {"code": 137, "kubelet_reason": "OOMKilled"}

CAUSES: tuple[tuple[str, End, tuple[End, ...], str, ExitClass], ...] = (
    # what happened to one; how the others may follow; what the attempt is recorded as
    ("a user error", USER, (ALONE, STOPPED, KILLED, BUG), "ModelNotFound", ExitClass.USER_ERROR),
    ("accelerator memory", OOM, (ALONE, STOPPED, KILLED, BUG), "OutOfMemory", ExitClass.OUT_OF_MEMORY),
    ("host memory", HOST_OOM, (ALONE, STOPPED, KILLED, BUG), "OutOfHostMemory", ExitClass.BUG),
    ("the bucket", STORAGE, (ALONE, STOPPED, KILLED, BUG), "StorageUnavailable", ExitClass.INFRASTRUCTURE),
    ("kill -9", KILLED, (ALONE, STOPPED, BUG), "Killed", ExitClass.INFRASTRUCTURE),
    ("a bug", BUG, (ALONE, STOPPED), "InternalError", ExitClass.BUG),
    ("kubectl delete pod", STOPPED, (ALONE, STOPPED), "Interrupted", ExitClass.INTERRUPTED),
    ("a drain", STOPPED | DISRUPTED, (ALONE, STOPPED, KILLED, BUG), "Disrupted", ExitClass.INTERRUPTED),
    ("an eviction", KILLED | DISRUPTED, (ALONE, STOPPED, KILLED, BUG, STORAGE), "Disrupted", ExitClass.INTERRUPTED),
    ("a partition", ALONE, (ALONE,), "PeerLost", ExitClass.INFRASTRUCTURE),
)
FOLLOWED = [(what, cause, then, reason, kind) for what, cause, all_, reason, kind in CAUSES for then in all_]


def dead_pods(*ends: End) -> tuple[PodView, ...]:
    """One pod for each, numbered in this order; each ended at another time."""
    return tuple(
        a_dead_pod(TRAIN, index=index, name=f"{TRAIN}-{index}", finished=after(60 + index), **end)
        for index, end in enumerate(ends)
    )


def recorded(*pods: PodView, **job: Any) -> Any:
    """The attempt's record once its Job failed."""
    failed = a_job(pods=pods, nodes=2, finished="Failed", **job)
    return stage_state(an_observation(a_run(**NODES), failed), Stage.TRAIN, now=after(90)).attempts[-1]


@pytest.mark.parametrize(("what", "cause", "then", "reason", "kind"), FOLLOWED)
def test_an_attempt_is_recorded_as_what_ended_its_first_pod(
    what: str, cause: End, then: End, reason: str, kind: ExitClass
) -> None:
    for ends in permutations((cause, then)):
        for pods in permutations(dead_pods(*ends)):
            record = recorded(*pods)
            assert (record.reason, record.exit_class) == (reason, kind), what
            assert record.end_time == after(61), "when the last one ended"


def test_a_record_tells_which_pod_it_was_and_where_training_stood() -> None:
    record = recorded(*dead_pods(ALONE, OOM))
    assert record.message.startswith(f"Pod {TRAIN}-1 on node node-1: ")
    assert (record.exit_code, record.to_step) == (30, 7)
    assert recorded(*dead_pods(ALONE, KILLED)).message.count(f"{TRAIN}-1") == 1


@pytest.mark.parametrize(
    ("left", "reason", "kind"),
    [
        ((), "Disrupted", ExitClass.INTERRUPTED),
        ((ALONE,), "Disrupted", ExitClass.INTERRUPTED),
        ((STOPPED,), "Disrupted", ExitClass.INTERRUPTED),
        ((STOPPED, KILLED), "Killed", ExitClass.INFRASTRUCTURE),
        ((OOM,), "OutOfMemory", ExitClass.OUT_OF_MEMORY),
    ],
)
def test_the_job_remembers_the_disruption_of_a_pod_that_is_gone(
    left: tuple[End, ...], reason: str, kind: ExitClass
) -> None:
    record = recorded(*dead_pods(*left), disrupted=True, finish_message="Pod x has condition DisruptionTarget.")
    assert (record.reason, record.exit_class) == (reason, kind)


def test_success_of_the_first_pod_is_that_of_the_attempt() -> None:
    success: End = {"code": 0, "text": trained_text()}
    for other in ({"code": 0, "text": SHARE}, KILLED | DISRUPTED):
        assert recorded(*dead_pods(success, other), disrupted=True).reason == "Succeeded"
    running = a_running_pod(TRAIN, name=f"{TRAIN}-0")
    share_taken = dead_pods(success, {"code": 0, "text": SHARE})[1]
    assert not a_job(pods=(running, share_taken), nodes=2).over, "the others are done before the first"


def test_views_are_read_from_what_the_job_controller_writes() -> None:
    labels = {RUN_UID_LABEL: UID, STAGE_LABEL: "train", ATTEMPT_LABEL: "1"}
    metadata = {"name": TRAIN, "namespace": NAMESPACE, "uid": "u", "labels": labels}
    metadata |= {"creationTimestamp": "2026-01-01T12:00:00Z"}
    of_run = {"ownerReferences": [{"kind": RUN_KIND, "uid": UID, "controller": True}]}
    of_job = {"ownerReferences": [{"kind": "Job", "uid": "u", "controller": True}]}
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "Pod x has condition y."}
    job = job_view({"metadata": metadata | of_run, "spec": {"completions": 2}, "status": {"conditions": [failed]}})
    assert (job.nodes, job.disrupted, job.finish_message) == (2, True, "Pod x has condition y.")
    pod = pod_view(
        {
            "metadata": metadata | of_job | {"annotations": {INDEX_ANNOTATION: "1"}},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]},
        }
    )
    assert (pod.index, pod.disrupted) == (1, True)


# --- the walk -----------------------------------------------------------------------------------------------------


def training(**spec: Any) -> Simulation:
    world = Simulation(run=a_run(**NODES, **spec), classes=(CLASS,))
    world.settle()
    world.end(PREPARE, 0, prepared_text(micro_batch=4))
    assert world.services == set(), "prepare is one pod"
    world.settle()
    world.start(TRAIN)
    world.settle()
    return world


def fall(world: Simulation, job: str, *ends: End, **fields: Any) -> None:
    """All pods end so, and the Job fails."""
    world.pass_time(30)
    for pod in dead_pods(*ends):
        word = pod.termination and replace(pod.termination, finished=world.now)
        world.change_pod_of(job, pod.index, phase="Failed", termination=word, disrupted=pod.disrupted)
    world.jobs[job] = replace(world.jobs[job], finished="Failed", **fields)
    world.settle()


def test_all_pods_train_under_one_job_and_one_service() -> None:
    world = training()
    assert world.created == [PREPARE, TRAIN]
    assert world.services == {SERVICE}
    assert world.reason == "Training"
    assert world.condition("Running") == ("True", "Training")
    assert "trains on nodes node-1, node-2" in world.message


def test_the_service_is_made_before_the_job_that_needs_it() -> None:
    world = Simulation(run=a_run(**NODES), classes=(CLASS,))
    world.settle()
    world.end(PREPARE, 0, prepared_text(micro_batch=4))
    kinds = [action.body["kind"] for action in world.reconcile().actions if isinstance(action, Create)]
    assert kinds == ["ConfigMap", "Service", "Job"]


def test_a_run_trains_once_all_its_pods_do() -> None:
    world = training()
    world.change_pod_of(TRAIN, 1, started=None, phase="Pending", unschedulable="0/1 nodes are available.")
    world.settle()
    assert world.reason == "Unschedulable"
    assert "0/1 nodes are available." in world.message


def test_a_node_out_of_memory_shrinks_the_batch_of_all() -> None:
    world = training()
    fall(world, TRAIN, ALONE, OOM)
    assert world.created[-1] == TRAIN_2
    (adjustment,) = world.run.status.adjustments
    assert (adjustment.per_device_train_batch_size, adjustment.gradient_accumulation_steps) == (2, 2)


def test_disruptions_between_which_steps_are_gained_cost_nothing() -> None:
    world = training(retryLimit=0)
    for number in range(1, 8):
        job = f"{NAME}-train-{number}"
        stopped = STOPPED | {"text": failed_text(ExitCode.Interrupted, step=10 * number)}
        fall(world, job, stopped, stopped | DISRUPTED, disrupted=True)
        assert world.created[-1] == f"{NAME}-train-{number + 1}", "all start again, at once"
        world.start(world.created[-1])
        world.settle()
    assert world.services == {SERVICE}


def test_disruptions_in_a_row_in_vain_need_a_person() -> None:
    world = training(retryLimit=0)
    for number in range(1, 6):
        fall(world, f"{NAME}-train-{number}", STOPPED, STOPPED | DISRUPTED, disrupted=True)
        if number < 5:
            assert world.created[-1] == f"{NAME}-train-{number + 1}", "all start again, at once"
            world.start(world.created[-1])
            world.settle()
    assert world.condition("Stalled") == ("True", "RepeatedlyDisrupted")
    assert world.created[-1] == f"{NAME}-train-5", "the next one waits"


def test_a_killed_pod_costs_a_retry() -> None:
    world = training(retryLimit=1)
    fall(world, TRAIN, ALONE, KILLED)
    assert world.reason == "BackingOff"
    world.now += timedelta(minutes=1)
    world.settle()
    world.start(TRAIN_2)
    fall(world, TRAIN_2, KILLED, ALONE)
    assert world.condition("Finished") == ("True", "Killed")


def test_while_some_pods_still_end_nothing_is_decided() -> None:
    world = training()
    (alone, _) = dead_pods(ALONE, OOM)
    world.change_pod_of(TRAIN, 0, phase="Failed", termination=alone.termination)
    world.settle()
    assert world.run.status.attempts[-1].reason is None
    assert world.created == [PREPARE, TRAIN]


def test_accelerators_of_all_nodes_count_and_the_service_goes_with_the_jobs() -> None:
    world = training(jobRetentionSeconds=60)
    world.pass_time(100)
    share, done = dead_pods({"code": 0}, {"code": 0, "text": SHARE})[1], world.now
    world.change_pod_of(TRAIN, 1, phase="Succeeded", termination=share.termination)
    world.end(TRAIN, 0, trained_text())
    world.settle()
    assert world.reason == "AdapterPublished"
    assert world.run.status.usage is not None
    began = world.run.status.attempts[-1].start_time
    assert began is not None
    assert world.run.status.usage.accelerator_seconds == 2 * (done - began).total_seconds()
    world.pass_time(61)
    world.settle()
    assert (world.services, world.jobs) == (set(), {})
