"""Runs on two nodes, as two pods of the one node: a real Indexed Job, names from a real Service, training by gloo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
from lora_trainer.contract.outcome import decode_outcome

from tests.cluster.containerd import ctr
from tests.cluster.runs import (
    REAL_TRAINING,
    SCRIPTED_CLASS,
    TRAINING_CLASS,
    Body,
    Tenant,
    ready_reason,
    small_training,
)
from tests.cluster.settings import Paths
from tests.demo import object_store
from tests.demo.environment import Environment
from tests.kstatus import breaches

STEPS = 20
TWO_NODES = {"parallelism": {"nodes": 2}}

MakeClass = Callable[[str], str]


@pytest.fixture
def two_nodes(tenant: Tenant) -> Iterator[MakeClass]:
    """Makes a class like another one, but for runs on two nodes, and returns its name."""
    made: list[str] = []

    def make(like: str) -> str:
        body = tenant.kubectl.get("lorafinetuneclass", like)
        spec = copy.deepcopy(body["spec"])
        spec["limits"] = {"nodes": 2}
        # The cluster of the tests has one node and no queue; nothing else competes for it.
        spec.setdefault("train", {})["placement"] = "PodByPod"
        made.append(f"{like}-{tenant.namespace}")
        kind = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
        tenant.kubectl.apply(kind | {"metadata": {"name": made[-1]}, "spec": spec})
        return made[-1]

    yield make
    for name in made:
        tenant.kubectl("delete", "lorafinetuneclass", name)


def attempts(run: Body) -> list[tuple[str, str | None]]:
    return [(attempt["stage"], attempt.get("reason")) for attempt in run["status"]["attempts"]]


def pod_of(tenant: Tenant, *, attempt: int, node: int) -> Body:
    (found,) = [
        pod
        for pod in tenant.pods("run", stage="train")
        if pod["metadata"]["labels"]["lora-operator.io/attempt"] == str(attempt)
        and pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == str(node)
    ]
    return found


def test_one_evicted_pod_is_no_failure_of_the_run(tenant: Tenant, two_nodes: MakeClass) -> None:
    tenant.play("run", "until-stopped", class_name=two_nodes(SCRIPTED_CLASS), retryLimit=0, **TWO_NODES)
    tenant.wait_for_reason("run", "Training")
    assert {pod["spec"]["hostname"] for pod in tenant.pods("run", stage="train")} == {"run-train-1-0", "run-train-1-1"}
    tenant.evict(pod_of(tenant, attempt=1, node=1))
    run = tenant.wait_for("run", "Ready")
    assert breaches(run["status"]) == []
    assert attempts(run) == [("prepare", "Succeeded"), ("train", "Disrupted"), ("train", "Succeeded")]


def test_a_pod_that_runs_out_of_memory_shrinks_the_batch_of_all(tenant: Tenant, two_nodes: MakeClass) -> None:
    tenant.play("run", "oom-beside", class_name=two_nodes(SCRIPTED_CLASS), **TWO_NODES)
    run = tenant.wait_for("run", "Ready")
    assert attempts(run) == [("prepare", "Succeeded"), ("train", "OutOfMemory"), ("train", "Succeeded")]
    assert [adjustment["attempt"] for adjustment in run["status"]["adjustments"]] == [2]


@REAL_TRAINING
def test_two_nodes_train_one_adapter_when_the_kernel_kills_one_of_them(
    environment: Environment, tenant: Tenant, two_nodes: MakeClass
) -> None:
    spec = small_training(maxSteps=STEPS, gradientAccumulationSteps=1, saveSteps=1)
    spec["evaluation"]["maxRows"] = 2
    tenant.apply("run", className=two_nodes(TRAINING_CLASS), retryLimit=1, **spec, **TWO_NODES)

    tenant.wait_for_progress("run", lambda progress: progress.get("checkpointStep", 0) >= 1, "a checkpoint")
    (container,) = pod_of(tenant, attempt=1, node=1)["status"]["containerStatuses"]
    ctr(Paths.from_environment(), "tasks", "kill", "-s", "SIGKILL", container["containerID"].partition("://")[2])
    run = tenant.wait_for_training("run")

    assert breaches(run["status"]) == []
    assert ready_reason(run) == "AdapterPublished"
    assert attempts(run) == [("prepare", "Succeeded"), ("train", "Killed"), ("train", "Succeeded")]
    _, killed, last = run["status"]["attempts"]
    assert killed["exitCode"] == 137
    assert 1 <= last["fromStep"] < STEPS
    assert last["toStep"] == STEPS
    assert run["status"]["usage"]["podSeconds"] >= 2 * last["durationSeconds"]
    beside = pod_of(tenant, attempt=2, node=1)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert beside["exitCode"] == 0
    word = decode_outcome(beside["message"])
    assert word is not None
    assert word.step == STEPS
    with object_store.bucket(environment.kubectl, environment.account) as store:
        folder = object_store.path_of(f"s3://lora/{tenant.namespace}/run")
        files = [entry["path"] for page in store.list(f"{folder}/") for entry in page]
        config = object_store.read_json(store, f"{run['status']['artifact']['uri']}/adapter_config.json")
    assert [file for file in files if file.endswith("/manifest.json")] == [
        f"{object_store.path_of(run['status']['artifact']['uri'])}/manifest.json"
    ]
    assert config["r"] == spec["lora"]["r"]

    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "run", "--timeout=60s")
    service = f"/api/v1/namespaces/{tenant.namespace}/services/nodes-run"
    tenant.kubectl.wait_for("the Service is gone", lambda: not tenant.kubectl.rest.get(service))
