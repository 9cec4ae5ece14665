"""The NetworkPolicies that ship: which flows pass and which do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.naming import MANAGED_BY, MANAGED_BY_LABEL, STAGE_LABEL, Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_trainer.contract.progress import PORT

from tests.builders import a_resolved, a_run
from tests.network_policies import Endpoint, Flow, passes

FOLDER = Path(__file__).parents[3] / "manifests"
TENANTS = ("team-a", "team-b")
RENDEZVOUS = 29500


def policies() -> list[dict[str, Any]]:
    """Those of the operator's namespace and of both tenants, as kubectl would apply them."""
    found = []
    for folder, namespaces in (("operator", ("lora-operator-system",)), ("tenant", TENANTS)):
        documents = list(yaml.safe_load_all((FOLDER / "network" / folder / "policies.yaml").read_text()))
        for namespace in namespaces:
            found += [each | {"metadata": each["metadata"] | {"namespace": namespace}} for each in documents]
    return found


def pod(
    namespace: str,
    address: str,
    labels: dict[str, str] | None = None,
    *,
    more: dict[str, str] | None = None,
    **ports: int,
) -> Endpoint:
    """A pod in a namespace, which has the label that every namespace has, and more."""
    return Endpoint(
        address=address,
        namespace=namespace,
        labels=labels or {},
        namespace_labels={"kubernetes.io/metadata.name": namespace} | (more or {}),
        ports=ports,
    )


def pod_of_a_run(namespace: str, address: str, stage: Stage) -> Endpoint:
    """A pod as the operator has it made."""
    run = a_run()
    template = stage_job(StageRequest(run=run, resolved=a_resolved(run), stage=stage, attempt=1))["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    return pod(namespace, address, template["metadata"]["labels"], **ports)


def pod_of_the_operator() -> Endpoint:
    template = yaml.safe_load((FOLDER / "operator/deployment.yaml").read_text())["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    return pod("lora-operator-system", "10.1.0.2", template["metadata"]["labels"], **ports)


OPERATOR = pod_of_the_operator()
TRAIN, TRAIN_TOO = (pod_of_a_run("team-a", address, Stage.TRAIN) for address in ("10.1.1.1", "10.1.1.2"))
PREPARE = pod_of_a_run("team-a", "10.1.1.3", Stage.PREPARE)
OTHERS_TRAIN = pod_of_a_run("team-b", "10.1.2.1", Stage.TRAIN)
NEIGHBOUR = pod("team-a", "10.1.1.9", {"app": "web"})
DNS = pod("kube-system", "10.1.0.53", {"k8s-app": "kube-dns"})
PROMETHEUS = pod("monitoring", "10.1.0.9", {"app.kubernetes.io/name": "prometheus"})
STORE = pod("object-store", "10.1.0.7", {"app": "store"}, more={"lora-operator.io/storage": "true"})
OTHER_POD = pod("elsewhere", "10.1.3.1", {"k8s-app": "kube-dns"})
STRANGER = pod("lora-operator-system", "10.1.0.66")
API_SERVICE, API_NODE = Endpoint(address="10.96.0.1"), Endpoint(address="192.168.0.10")
METADATA = Endpoint(address="169.254.169.254")
CLOUD_STORE = Endpoint(address="52.219.170.1")

MUST_PASS = {
    "train asks the name server": Flow(source=TRAIN, target=DNS, port=53, protocol="UDP"),
    "prepare asks it by TCP": Flow(source=PREPARE, target=DNS, port=53),
    "train writes to the cloud's store": Flow(source=TRAIN, target=CLOUD_STORE, port=443),
    "prepare reads from the hub": Flow(source=PREPARE, target=CLOUD_STORE, port=443),
    "train writes to a store in the cluster": Flow(source=TRAIN, target=STORE, port=7070),
    "prepare reads from a store in the cluster": Flow(source=PREPARE, target=STORE, port=7070),
    "the operator asks for progress": Flow(source=OPERATOR, target=TRAIN, port=PORT),
    "and in every namespace": Flow(source=OPERATOR, target=OTHERS_TRAIN, port=PORT),
    "Prometheus scrapes train": Flow(source=PROMETHEUS, target=TRAIN, port=PORT),
    "Prometheus scrapes the operator": Flow(source=PROMETHEUS, target=OPERATOR, port=8080),
    "ranks find each other": Flow(source=TRAIN, target=TRAIN_TOO, port=RENDEZVOUS),
    "ranks exchange gradients": Flow(source=TRAIN_TOO, target=TRAIN, port=43211),
    "the operator talks to the API server": Flow(source=OPERATOR, target=API_SERVICE, port=443),
    "and on its own port": Flow(source=OPERATOR, target=API_NODE, port=6443),
    "the operator asks the name server": Flow(source=OPERATOR, target=DNS, port=53, protocol="UDP"),
    "other pods of a tenant are left alone": Flow(source=NEIGHBOUR, target=OTHER_POD, port=80),
}
MUST_NOT_PASS = {
    "train talks to the API server": Flow(source=TRAIN, target=API_SERVICE, port=443),
    "prepare talks to the API server": Flow(source=PREPARE, target=API_SERVICE, port=443),
    "train talks to it on its own port": Flow(source=TRAIN, target=API_NODE, port=6443),
    "train asks the metadata server": Flow(source=TRAIN, target=METADATA, port=80),
    "train asks it by HTTPS": Flow(source=TRAIN, target=METADATA, port=443),
    "train talks to another tenant's": Flow(source=TRAIN, target=OTHERS_TRAIN, port=RENDEZVOUS),
    "train asks another tenant's for progress": Flow(source=OTHERS_TRAIN, target=TRAIN, port=PORT),
    "train talks to its neighbours": Flow(source=TRAIN, target=NEIGHBOUR, port=80),
    "neighbours talk to train": Flow(source=NEIGHBOUR, target=TRAIN, port=PORT),
    "prepare joins the ranks": Flow(source=PREPARE, target=TRAIN, port=RENDEZVOUS),
    "train talks to the operator": Flow(source=TRAIN, target=OPERATOR, port=8080),
    "train sends mail": Flow(source=TRAIN, target=CLOUD_STORE, port=25),
    "train talks plain HTTP to the world": Flow(source=TRAIN, target=CLOUD_STORE, port=80),
    "train asks a name server of somebody's own": Flow(source=TRAIN, target=OTHER_POD, port=53, protocol="UDP"),
    "the world talks to train": Flow(source=CLOUD_STORE, target=TRAIN, port=PORT),
    "Prometheus reaches more than the metrics": Flow(source=PROMETHEUS, target=TRAIN, port=RENDEZVOUS),
    "Prometheus scrapes prepare": Flow(source=PROMETHEUS, target=PREPARE, port=PORT),
    "the operator reaches more than the progress": Flow(source=OPERATOR, target=TRAIN, port=RENDEZVOUS),
    "the operator talks to prepare": Flow(source=OPERATOR, target=PREPARE, port=PORT),
    "the operator opens the bucket": Flow(source=OPERATOR, target=STORE, port=7070),
    "somebody asks the operator": Flow(source=OTHER_POD, target=OPERATOR, port=8080),
    "another pod beside the operator talks to the world": Flow(source=STRANGER, target=CLOUD_STORE, port=443),
}


@pytest.mark.parametrize("flow", MUST_PASS.values(), ids=MUST_PASS)
def test_a_flow_passes(flow: Flow) -> None:
    assert passes(flow, policies())


@pytest.mark.parametrize("flow", MUST_NOT_PASS.values(), ids=MUST_NOT_PASS)
def test_a_flow_does_not_pass(flow: Flow) -> None:
    assert not passes(flow, policies())


def test_without_policies_everything_passes() -> None:
    assert all(passes(flow, []) for flow in MUST_NOT_PASS.values())


@pytest.mark.parametrize("name", sorted({policy["metadata"]["name"] for policy in policies()}))
def test_every_policy_is_needed(name: str) -> None:
    """Without it a flow passes that must not, or one does not that must."""
    rest = [policy for policy in policies() if policy["metadata"]["name"] != name]
    lost = [flow for flow in MUST_PASS.values() if not passes(flow, rest)]
    gained = [flow for flow in MUST_NOT_PASS.values() if passes(flow, rest)]
    assert lost or gained


RULES = [
    ({"matchLabels": {MANAGED_BY_LABEL: MANAGED_BY}}, True),
    ({"matchExpressions": [{"key": STAGE_LABEL, "operator": "In", "values": ["train"]}]}, True),
    ({"matchExpressions": [{"key": STAGE_LABEL, "operator": "NotIn", "values": ["train"]}]}, False),
    ({"matchExpressions": [{"key": STAGE_LABEL, "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": STAGE_LABEL, "operator": "DoesNotExist"}]}, False),
]


@pytest.mark.parametrize(("selector", "matches"), RULES)
def test_a_selector_of_pods(selector: dict[str, Any], matches: bool) -> None:
    policy = {"metadata": {"namespace": "team-a"}, "spec": {"podSelector": selector}}
    isolated = not passes(Flow(source=NEIGHBOUR, target=TRAIN, port=1), [policy])
    assert isolated == matches


@pytest.mark.parametrize(
    ("port", "matches"),
    [
        ({"port": 80}, True),
        ({"port": 81}, False),
        ({"port": 70, "endPort": 80}, True),
        ({"port": 70, "endPort": 79}, False),
        ({"protocol": "UDP", "port": 80}, False),
        ({}, True),
    ],
)
def test_a_range_of_ports(port: dict[str, Any], matches: bool) -> None:
    policy = {"metadata": {"namespace": "team-a"}, "spec": {"podSelector": {}, "ingress": [{"ports": [port]}]}}
    assert passes(Flow(source=OTHER_POD, target=NEIGHBOUR, port=80), [policy]) == matches
