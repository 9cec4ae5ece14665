"""Argo CD's own program runs our health scripts and actions on their test data, which is in upstream's form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.commands import run
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS, Environment
from tests.install import argocd

SETTINGS = MANIFESTS / "argocd/settings"
SCRIPTS = SETTINGS / "resource_customizations"


@dataclass(frozen=True, kw_only=True)
class Case:
    """An object and what is to be said of it."""

    file: Path
    status: str
    message: str


def cases() -> list[Case]:
    """What the health_test.yaml files list."""
    return [
        Case(file=tests.parent / entry["inputPath"], **entry["healthStatus"])
        for tests in sorted(SCRIPTS.rglob("health_test.yaml"))
        for entry in yaml.safe_load(tests.read_text())["tests"]
    ]


@pytest.fixture(scope="module")
def settings(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ConfigMap argocd-cm that our kustomization makes."""
    file = tmp_path_factory.mktemp("settings") / "argocd-cm.yaml"
    file.write_text(environment.kubectl("kustomize", SETTINGS))
    return file


def ask(settings: Path, *question: object) -> str:
    """`argocd admin settings resource-overrides`."""
    program = argocd.programs(Paths.from_environment())["argocd"]
    command = [program, "admin", "settings", "resource-overrides", *question]
    return run([*command, "--argocd-cm-path", settings], env={"ARGOCD_BINARY_NAME": "argocd"})


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.file.stem)
def test_health(case: Case, settings: Path) -> None:
    said = " ".join(ask(settings, "health", case.file).split())
    assert said == f"STATUS: {case.status} MESSAGE: {case.message}"


@pytest.mark.parametrize(
    ("name", "offered"), [("training", {"suspend"}), ("suspended", {"resume"}), ("published", set()), ("failed", set())]
)
def test_actions_that_are_offered(name: str, offered: set[str], settings: Path) -> None:
    _, *lines = ask(settings, "list-actions", sample(name)).splitlines()
    assert {action for action, disabled in (line.split() for line in lines) if disabled == "false"} == offered


@pytest.mark.parametrize(
    ("action", "name", "value"), [("suspend", "training", "true"), ("resume", "suspended", "false")]
)
def test_actions_change_one_field(action: str, name: str, value: str, settings: Path) -> None:
    difference = ask(settings, "run-action", sample(name), action)
    assert [line for line in difference.splitlines() if f"suspend: {value}" in line]


def sample(name: str) -> Path:
    """The object of that name."""
    return SCRIPTS / "lora-operator.io/LoraFineTune/testdata" / f"{name}.yaml"
