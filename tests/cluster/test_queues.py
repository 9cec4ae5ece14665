"""Runs in the queues of a real Kueue: one at a time, preempted and resumed, told where they stand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster import kueue
from tests.cluster.runs import (
    DEMO_CLASS,
    REAL_TRAINING,
    SCRIPTED_CLASS,
    Body,
    Tenant,
    ready_message,
    small_training,
    steps_done,
)
from tests.cluster.settings import NODE_NAME, Paths
from tests.demo import object_store
from tests.demo.environment import MANIFESTS, MODEL_PREFIX, Environment
from tests.demo.kubectl import Kubectl
from tests.demo.live import condition
from tests.kstatus import breaches

GPU = "queues.test/gpu"
"""Not nvidia.com/gpu: other tests beside this one want a node without that."""
GPU_CLASS = "queued-gpu"
QUEUE = "gpus"
QUOTA = {GPU: 1, "cpu": 1, "memory": "64Gi", "ephemeral-storage": "1Ti"}
POSITION_SECONDS = 60
STEPS = 16


@pytest.fixture(scope="module")
def queues(environment: Environment) -> Iterator[Kubectl]:
    """Kueue with the sample's queues, a node that claims a GPU, and a class whose queue is the sample's."""
    kubectl = environment.kubectl
    kueue.install(kubectl, paths=Paths.from_environment(), report=print)
    kubectl("apply", "-k", MANIFESTS / "kueue")
    kueue.apply(kubectl, [body for body in sample() if body["kind"] != "LocalQueue"])
    capacity(kubectl, {"op": "add", "value": "1"})
    spec = kubectl.get("lorafinetuneclass", SCRIPTED_CLASS)["spec"]
    accelerator = {"gpu": {"resourceName": GPU, "memory": "24Gi"}}
    metadata = {"name": GPU_CLASS}
    body = {"apiVersion": "lora-operator.io/v1beta1", "kind": "LoraFineTuneClass", "metadata": metadata}
    kubectl.apply(body | {"spec": spec | {"accelerator": accelerator, "defaults": {"queueName": QUEUE}}})
    yield kubectl
    kueue.remove(kubectl)
    kubectl("delete", "-k", MANIFESTS / "kueue")
    kubectl("delete", "lorafinetuneclass", GPU_CLASS)
    capacity(kubectl, {"op": "remove"})


def capacity(kubectl: Kubectl, change: Body) -> None:
    """What the node claims to have of GPUs."""
    patch = [change | {"path": "/status/capacity/" + GPU.replace("/", "~1")}]
    kubectl("patch", "node", NODE_NAME, "--subresource=status", "--type=json", "--patch", json.dumps(patch))


def sample() -> list[Body]:
    """The sample's objects, with the quota of these tests."""
    bodies = list(yaml.safe_load_all((MANIFESTS / "kueue/queues.yaml").read_text()))
    (queue,) = (body for body in bodies if body["kind"] == "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    group["coveredResources"] = list(QUOTA)
    group["flavors"][0]["resources"] = [{"name": name, "nominalQuota": amount} for name, amount in QUOTA.items()]
    return bodies


def local_queue(tenant: Tenant, name: str = QUEUE, **spec: str) -> None:
    """Make or change a LocalQueue like the sample's in the tenant's namespace."""
    (body,) = (body for body in sample() if body["kind"] == "LocalQueue")
    metadata = {"name": name, "namespace": tenant.namespace}
    tenant.kubectl.apply(body | {"metadata": metadata, "spec": body["spec"] | spec})


@pytest.fixture
def queued_tenant(queues: Kubectl, tenant: Tenant) -> Tenant:
    """A tenant in a namespace that Kueue minds, with a queue."""
    queues("label", "namespace", tenant.namespace, f"{kueue.LABEL}=")
    local_queue(tenant)
    return tenant


def told(tenant: Tenant, name: str, words: str, *, seconds: float = POSITION_SECONDS) -> Body:
    """The run, once Ready says so."""
    return tenant.wait(name, lambda run: words in ready_message(run), words, seconds=seconds)


def trained(run: Body) -> list[tuple[str, str]]:
    """When its train attempts began and ended."""
    attempts = [attempt for attempt in run["status"]["attempts"] if attempt["stage"] == "train"]
    return [(attempt["startTime"], attempt["endTime"]) for attempt in attempts]


def test_three_runs_share_one_gpu_one_at_a_time(queued_tenant: Tenant) -> None:
    tenant = queued_tenant
    tenant.play("first", "until-stopped", class_name=GPU_CLASS)
    tenant.wait_for_reason("first", "Training")
    for name in ("second", "third"):
        tenant.play(name, "short", class_name=GPU_CLASS)
        tenant.wait_for_reason(name, "Queued")
    second = told(tenant, "second", f"second-train-1 waits in LocalQueue {QUEUE} at position 1.")
    third = told(tenant, "third", f"third-train-1 waits in LocalQueue {QUEUE} at position 2.")
    for waiting in (second, third):
        run = told(tenant, waiting["metadata"]["name"], GPU)  # Kueue says why a moment after it took the Job up
        suspended = condition(run, "Suspended") or {}
        assert (suspended["status"], suspended["reason"]) == ("True", "Queued")
        assert GPU in ready_message(run), "the queue's own words say what is missing"
        assert breaches(run["status"]) == []
        assert tenant.pods(run["metadata"]["name"], stage="train") == []
    tenant.patch("first", suspend=True)  # its user gives the GPU back
    tenant.wait_for("second", "Running")
    tenant.patch("first", suspend=False)
    runs = [tenant.wait_for(name, "Ready") for name in ("first", "second", "third")]
    spans = sorted(span for run in runs for span in trained(run))
    assert len(spans) == 4
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans


@REAL_TRAINING
def test_a_preempted_training_goes_on_from_its_checkpoint(environment: Environment, queued_tenant: Tenant) -> None:
    tenant = queued_tenant
    spec = small_training(maxSteps=STEPS, gradientAccumulationSteps=1, saveSteps=1000)
    spec["model"]["name"] = f"s3://lora/{MODEL_PREFIX}"  # the whole one, whose steps outlast a preemption
    queue = {"queueName": QUEUE, "workloadPriorityClassName": "overnight"}
    tenant.apply("run", className=DEMO_CLASS, **spec | queue | {"retryLimit": 0})
    # It is prepared and held back until the other one is in the middle of its steps.
    local_queue(tenant, "held", stopPolicy="Hold")
    tenant.play("urgent", "short", class_name=GPU_CLASS, queueName="held", workloadPriorityClassName="urgent")
    told(tenant, "urgent", "LocalQueue held is")
    tenant.wait_for_progress("run", lambda progress: progress.get("step", 0) >= 1, "a first step")
    local_queue(tenant, "held", stopPolicy="None")
    run = tenant.wait_for_reason("run", "Queued")
    tenant.kubectl.wait_for("the pod is gone", lambda: not tenant.pods("run", stage="train"))
    with object_store.bucket(environment.kubectl, environment.account) as store:
        saved = checkpoints(store, run)
    assert len(saved) == 1, "what it did when it was asked to stop"
    assert steps_done(run) <= saved[0] < STEPS
    tenant.wait_for("urgent", "Ready")
    run = tenant.wait_for_training("run")
    (record,) = (attempt for attempt in run["status"]["attempts"] if attempt["stage"] == "train")
    assert (record["reason"], record["fromStep"], record["toStep"]) == ("Succeeded", saved[0], STEPS)
    assert run["status"]["resumptions"] == 1
    assert len(tenant.jobs("run", stage="train")) == 1
    assert breaches(run["status"]) == []
    assert "Resumed" in tenant.told("run", until="AdapterPublished")


def checkpoints(store: Any, run: Body) -> list[int]:
    """Steps of the run's complete checkpoints."""
    metadata = run["metadata"]
    prefix = f"work/{metadata['namespace']}/{metadata['name']}/{metadata['uid']}/checkpoints"
    keys = [entry["path"] for page in store.list(prefix) for entry in page]
    return sorted(int(key.split("/step-")[1].split("/")[0]) for key in keys if key.endswith("/manifest.json"))


def test_a_queue_that_does_not_exist_is_named_and_may_come_later(queued_tenant: Tenant) -> None:
    tenant = queued_tenant
    tenant.play("run", "ok", class_name=GPU_CLASS, queueName="late")
    run = told(tenant, "run", "LocalQueue late doesn't exist")
    assert breaches(run["status"]) == []
    local_queue(tenant, "late")
    tenant.wait_for("run", "Ready")


def test_a_priority_that_does_not_exist_is_named(queued_tenant: Tenant) -> None:
    queued_tenant.play("run", "ok", class_name=GPU_CLASS, workloadPriorityClassName="none")
    told(queued_tenant, "run", "the run's WorkloadPriorityClass does not exist")
