"""The roles of product teams: what a team needs to train, and no way around the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "manifests"
READ = {"get", "list", "watch"}
WRITE = {"create", "update", "patch", "delete"}

ROLES: dict[str, Any] = {
    body["metadata"]["name"]: body for body in yaml.safe_load_all((FOLDER / "users/roles.yaml").read_text())
}


def rights(role: str) -> dict[tuple[str, str], set[str]]:
    """The verbs of a role by API group and resource."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in ROLES[role]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def aggregated(role: str) -> set[str]:
    """The roles of the cluster that include this one."""
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    return {label.removeprefix(prefix) for label in ROLES[role]["metadata"].get("labels", {})}


def test_a_team_gets_its_runs_and_reads_why_one_failed() -> None:
    assert rights("lora-operator-user") == {
        ("lora-operator.io", "lorafinetunes"): READ | WRITE,
        ("", "pods"): READ,
        ("", "pods/log"): {"get"},
        ("", "events"): READ,
        ("", "resourcequotas"): READ,
    }


@pytest.mark.parametrize("role", ROLES)
def test_no_role_opens_a_way_around_the_operator(role: str) -> None:
    for (group, resource), verbs in rights(role).items():
        assert "*" not in {group, resource, *verbs}
        assert resource not in {"secrets", "lorafinetunes/status"}
        assert resource == "lorafinetunes" or verbs <= READ


def test_what_the_roles_of_the_cluster_include() -> None:
    assert {role: aggregated(role) for role in ROLES} == {
        "lora-operator-user": set(),
        "lora-operator-class-viewer": set(),
        "lora-operator-edit": {"edit", "admin"},
        "lora-operator-view": {"view"},
    }


def test_class_viewers_read_classes_and_nothing_else() -> None:
    (binding,) = yaml.safe_load_all((FOLDER / "class-viewers/rbac.yaml").read_text())
    assert rights(binding["roleRef"]["name"]) == {("lora-operator.io", "lorafinetuneclasses"): READ}
    assert [subject["name"] for subject in binding["subjects"]] == ["system:authenticated"]


def test_an_installation_without_class_viewers_binds_no_group() -> None:
    folders = ("account", "rbac", "users", "kueue", "namespaced")
    files = [file for name in folders for file in (FOLDER / name).rglob("*.yaml")]
    bodies = [body for file in files for body in yaml.safe_load_all(file.read_text())]
    subjects = [subject for body in bodies for subject in body.get("subjects", ())]
    assert {subject["kind"] for subject in subjects} == {"ServiceAccount"}
