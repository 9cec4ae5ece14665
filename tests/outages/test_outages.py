"""Parts of a real cluster fail while a run goes on: it ends as if nothing had been, and nothing is done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from tests.cluster import lifecycle
from tests.cluster.refusals import refusal_of
from tests.cluster.runs import Tenant, ready_message
from tests.cluster.settings import NODE_NAME, Paths
from tests.demo.environment import MANIFESTS, OPERATOR_NAMESPACE, ensure_environment
from tests.demo.timings import Timings

OPERATOR = ("-n", OPERATOR_NAMESPACE, "deployment/lora-operator")
CRD = "lorafinetunes.lora-operator.io"


@pytest.fixture(autouse=True)
def whole_again() -> Iterator[None]:
    """Whatever a test broke is mended after it."""
    yield
    lifecycle.heal(paths=Paths.from_environment(), report=print)


@pytest.fixture
def refilled() -> Iterator[None]:
    """What the object store held goes with its pod, and is put back for the tests that follow."""
    yield
    ensure_environment(Timings(console=Console(width=120)))


def start(tenant: Tenant, scenario: str = "short") -> None:
    tenant.play("run", scenario)
    tenant.wait_for_reason("run", "Training")


def assert_trained_once(tenant: Tenant, *, seconds: float = 150) -> None:
    """The run is complete after one attempt of each stage, and one pod trained to the end."""
    run = tenant.wait_for("run", "Ready", seconds=seconds)
    stages = [(attempt["stage"], attempt["reason"]) for attempt in run["status"]["attempts"]]
    assert stages == [("prepare", "Succeeded"), ("train", "Succeeded")]
    assert len(tenant.jobs("run")) == 2


@pytest.mark.parametrize(
    ("component", "seconds"),
    [("kube-apiserver", 20), ("etcd", 30), ("kube-controller-manager", 20), ("kubelet", 20)],
)
def test_a_part_of_the_cluster_is_away_while_the_pod_ends(tenant: Tenant, component: str, seconds: float) -> None:
    paths = Paths.from_environment()
    start(tenant)
    lifecycle.stop(component, paths=paths)
    time.sleep(seconds)  # the outage
    lifecycle.heal(paths=paths, report=print)
    assert_trained_once(tenant)


def test_an_api_server_that_starts_refuses_nobody_and_lets_nobody_past_the_class(tenant: Tenant) -> None:
    """For half a minute it cannot read classes, so its admission policy judges nothing and the operator alone does."""
    paths = Paths.from_environment()
    with tenant.own_class(limits={"r": 8}) as name:
        tenant.play("paused", "ok", class_name=name, lora={"r": 8}, suspend=True)
        lifecycle.stop("kube-apiserver", paths=paths)
        lifecycle.start("kube-apiserver", paths=paths, report=print)
        tenant.play("sound", "ok", class_name=name, lora={"r": 8})
        tenant.patch("paused", suspend=False)
        said = refusal_of(lambda: tenant.play("beyond", "ok", class_name=name, lora={"r": 64}))
        if not said:
            said = ready_message(tenant.wait_for_reason("beyond", "PolicyViolation"))
            assert tenant.jobs("beyond") == []
        assert f"spec.lora.r is 64, but LoraFineTuneClass {name} allows at most 8" in said
        for run in ("sound", "paused"):
            tenant.wait_for(run, "Ready")


def test_a_drained_node_costs_nothing(tenant: Tenant) -> None:
    start(tenant)
    [first] = names(tenant)
    try:
        drain = ("--pod-selector=lora-operator.io/run=run", "--delete-emptydir-data", "--timeout=60s")
        tenant.kubectl("drain", NODE_NAME, *drain)
    finally:
        tenant.kubectl("uncordon", NODE_NAME)
    assert_trained_once(tenant)
    assert names(tenant) != [first]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("refilled")
def test_a_lost_node_costs_nothing(tenant: Tenant) -> None:
    """The operator and the object store were on it as well."""
    paths = Paths.from_environment()
    start(tenant)
    [first] = names(tenant)
    lifecycle.lose_node(paths=paths, report=print)
    tenant.kubectl("delete", "node", NODE_NAME)  # as a cloud's controller does; nobody else removes pods before long
    tenant.kubectl.wait_for("the pod is given up", lambda: first not in names(tenant), seconds=150)
    lifecycle.heal(paths=paths, report=print)
    assert_trained_once(tenant, seconds=240)
    assert first not in names(tenant)


def names(tenant: Tenant) -> list[str]:
    """Names of the run's train pods."""
    return [pod["metadata"]["name"] for pod in tenant.pods("run", stage="train")]


def test_the_operator_is_uninstalled_and_installed_again(tenant: Tenant) -> None:
    start(tenant)
    deployment = tenant.kubectl.get(*OPERATOR)
    tenant.kubectl("delete", *OPERATOR, "--wait=true")
    ended = ("--for=condition=Complete", "job/run-train-1", "--timeout=60s")
    tenant.kubectl("-n", tenant.namespace, "wait", *ended)
    tenant.kubectl.apply(without_status(deployment))
    tenant.kubectl.wait_for_rollout(OPERATOR_NAMESPACE, "lora-operator")
    assert_trained_once(tenant)


def test_the_crd_is_upgraded_with_live_runs(tenant: Tenant) -> None:
    start(tenant)
    newer = without_status(tenant.kubectl.get("crd", CRD))
    version = newer["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["properties"]["inALaterVersion"] = {"type": "string", "default": "as before"}
    properties["status"]["properties"]["toldByALaterVersion"] = {"type": "string"}
    try:
        tenant.kubectl.apply(newer)
        assert_trained_once(tenant)
        assert tenant.run("run")["spec"]["inALaterVersion"] == "as before"
        # A newer operator has written, and an older one comes back.
        told = {"status": {"toldByALaterVersion": "this"}}
        patch = ("patch", "lorafinetune", "run", "--subresource=status", "--type=merge", "-p", json.dumps(told))
        tenant.kubectl("-n", tenant.namespace, *patch)
        tenant.kubectl("-n", OPERATOR_NAMESPACE, "rollout", "restart", OPERATOR[2])
        tenant.kubectl.wait_for_rollout(OPERATOR_NAMESPACE, "lora-operator")
        tenant.play("next", "ok")
        tenant.wait_for_reason("next", "SpecInvalid")  # what the new field means to it, this operator cannot know
        assert_trained_once(tenant)
    finally:
        tenant.kubectl("apply", "-k", MANIFESTS / "crd")
    # The API server takes a moment; what it stores before has the newer field again.
    tenant.wait("next", lambda run: "inALaterVersion" not in run["spec"], "the older schema")
    tenant.patch("next", retryLimit=1)
    tenant.wait_for("next", "Ready")


def without_status(body: dict[str, Any]) -> dict[str, Any]:
    """What can be applied again."""
    kept = ("name", "namespace", "labels")
    metadata = {field: body["metadata"][field] for field in kept if field in body["metadata"]}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": body["spec"]}
