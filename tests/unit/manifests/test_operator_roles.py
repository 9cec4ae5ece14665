"""What the operator may do, installed for the whole cluster and for some namespaces."""

from __future__ import annotations

import pytest
import yaml
from lora_operator.settings import PREFIX, settings_from

from tests.access_rules import Access, allowed, granted
from tests.installs import MANIFESTS, Body, rights

CLASSES = {(verb, "lora-operator.io", "lorafinetuneclasses") for verb in ("get", "list", "watch")}
CLASS_STATUS = ("patch", "lora-operator.io", "lorafinetuneclasses/status")
OPERATOR, OBJECTS = rights(served=["team-a", "team-b"])
_, CLUSTERWIDE = rights()


@pytest.mark.parametrize("namespace", ["team-a", "team-b"])
def test_in_a_namespace_that_it_serves_it_may_do_what_a_clusterwide_one_may_do_everywhere(namespace: str) -> None:
    everywhere = granted(OPERATOR, CLUSTERWIDE, namespace=namespace)
    assert granted(OPERATOR, OBJECTS, namespace=namespace) == everywhere - {CLASS_STATUS}


@pytest.mark.parametrize("namespace", ["", "team-c", "kube-system"])
def test_elsewhere_it_reads_classes_and_nothing_else(namespace: str) -> None:
    assert granted(OPERATOR, OBJECTS, namespace=namespace) == CLASSES


def test_in_its_own_namespace_it_has_the_lease_besides() -> None:
    found = granted(OPERATOR, OBJECTS, namespace=OPERATOR.namespace) - CLASSES
    assert found == {(verb, "coordination.k8s.io", "leases") for verb in ("create", "get", "update")}


def test_of_namespaces_it_reads_those_that_it_serves() -> None:
    def may_read(name: str) -> bool:
        return allowed(Access(verb="get", group="", resource="namespaces", name=name), OPERATOR, OBJECTS)

    assert [may_read(name) for name in ("team-a", "team-b", "team-c")] == [True, True, False]


@pytest.mark.parametrize("name", ["lora-operator", "other"])
def test_of_leases_it_changes_its_own(name: str) -> None:
    access = Access(
        verb="update", group="coordination.k8s.io", resource="leases", namespace=OPERATOR.namespace, name=name
    )
    assert allowed(access, OPERATOR, OBJECTS) == (name == "lora-operator")


@pytest.mark.parametrize("objects", [CLUSTERWIDE, OBJECTS], ids=["clusterwide", "namespaced"])
def test_it_never_reads_secrets_and_has_no_wildcard(objects: list[Body]) -> None:
    found = granted(OPERATOR, objects, namespace="team-a")
    assert not [right for right in found if "*" in right or right[2].startswith("secrets")]
    assert ("create", "", "pods") not in found


def test_the_deployment_names_the_namespaces_in_the_setting() -> None:
    patch = yaml.safe_load((MANIFESTS / "namespaced/deployment.yaml").read_text())
    base = yaml.safe_load((MANIFESTS / "operator/deployment.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["name"] == f"{PREFIX}WATCH_NAMESPACES"
    assert settings_from({variable["name"]: variable["value"]}).scope.only == ("team-a",)
    assert container["name"] == base["spec"]["template"]["spec"]["containers"][0]["name"]
    assert patch["metadata"].items() <= base["metadata"].items()
