"""The real API server takes every manifest and sample, by server-side dry-run. What is not tried is named.

The classes that samples name are there, so that the admission policy judges every sample by its class.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.builders import NAMESPACE, run_body
from tests.cluster import toolchain
from tests.cluster.refusals import first_refusal, refusal_of
from tests.crd_case import edited
from tests.demo.environment import MANIFESTS, Environment
from tests.demo.kubectl import Kubectl

KUSTOMIZATIONS = {
    file.parent: yaml.safe_load(file.read_text()) for file in sorted(MANIFESTS.rglob("kustomization.yaml"))
}
SETTINGS = MANIFESTS / "argocd/settings"
TEAMS = [MANIFESTS / "demo/tenant", *sorted((MANIFESTS / "argocd/repository/tenants").iterdir())]
"""Folders of teams, on top of the base in tenant."""
SAMPLES = sorted((MANIFESTS / "samples").rglob("*.yaml"))
CLASSES = sorted((MANIFESTS / "classes").glob("*.yaml"))
UNSET = "gpu-24g"
"""The class by which a sample that names none is judged when it asks for too much."""
LONGEST = 3600
"""Seconds that the classes allow."""
NOT_HERE = {
    MANIFESTS / "kustomize/name-references.yaml",  # kustomize's own format; a test of its own uses it
    MANIFESTS / "kueue/queues.yaml",  # test_queues.py applies it, with Kueue
    MANIFESTS / "monitoring/kube-state-metrics.yaml",  # kube-state-metrics' own format; a unit test reads it
    MANIFESTS / "monitoring/rules.yaml",  # Prometheus' own format
    SETTINGS / "actions.yaml",  # Argo CD's own format
    *SETTINGS.rglob("health_test.yaml"),  # Argo CD's own format
    *SETTINGS.rglob("testdata/of_another_version.yaml"),  # stored by another version; today it is refused
}
FOREIGN_CRDS = (
    (
        toolchain.ARGOCD,
        "github.com/argoproj/argo-cd/v3",
        "manifests/crds/{}-crd.yaml",
        ("application", "applicationset", "appproject"),
    ),
    (
        toolchain.PROMETHEUS_OPERATOR,
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml",
        ("podmonitors", "prometheusrules"),
    ),
)
"""Kinds of others that our manifests use: module, its path, the file of a CRD in it, CRDs."""


def of_kustomizations() -> set[Path]:
    """Files that a kustomization brings or patches with."""
    return {
        folder / name
        for folder, content in KUSTOMIZATIONS.items()
        for name in (
            *content.get("resources", ()),
            *(patch["path"] for patch in content.get("patches", ()) if "path" in patch),
            "kustomization.yaml",
        )
    }


def loose_files() -> list[Path]:
    """Files that are applied by themselves."""
    return sorted(set(MANIFESTS.rglob("*.yaml")) - of_kustomizations() - NOT_HERE)


def name(path: Path) -> str:
    """How a case is called."""
    return str(path.relative_to(MANIFESTS))


def classes() -> list[dict]:
    """The classes of our manifests, with a limit. None is the default: the cluster of all tests has one already."""
    changes = {"spec.limits.maxRuntimeSeconds": LONGEST, "metadata.annotations": None}
    return [edited(yaml.safe_load(file.read_text()), changes) for file in CLASSES]


def greedy(sample: Path) -> dict:
    """The sample, asking for more than its class allows."""
    body = yaml.safe_load(sample.read_text())
    named = body["spec"].get("className", UNSET)
    return edited(body, {"spec.className": named, "spec.maxRuntimeSeconds": LONGEST + 1})


def refusal(kubectl: Kubectl, body: dict) -> str:
    """What the API server says to the object, without keeping it; empty where it accepts it."""
    return refusal_of(lambda: kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body)))


@pytest.fixture(scope="module")
def kubectl(environment: Environment) -> Iterator[Kubectl]:
    """kubectl for a cluster that has the foreign kinds, the namespace argocd, and the classes that samples name, once
    its API server judges by them."""
    kubectl = environment.kubectl
    files = [
        toolchain.source(module, path) / file.format(crd) for module, path, file, crds in FOREIGN_CRDS for crd in crds
    ]
    options = [option for file in files for option in ("-f", file)]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}}
    try:
        kubectl.apply_crds(*options)
        kubectl.apply(namespace, *classes())
        for sample in SAMPLES:
            body = greedy(sample)
            first_refusal(lambda body=body: refusal(kubectl, body))
        yield kubectl
    finally:
        kubectl("delete", "lorafinetuneclass", "--ignore-not-found", *(body["metadata"]["name"] for body in classes()))
        kubectl("delete", "namespace", "argocd", "--ignore-not-found")
        kubectl("delete", *options, "--ignore-not-found")


def assert_accepted(kubectl: Kubectl, manifests: str) -> None:
    said = kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=manifests,
    )
    objects = [body for body in yaml.safe_load_all(manifests) if body]
    assert len(said.splitlines()) == len(objects) > 0


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=name)
def test_kustomization_is_accepted(folder: Path, kubectl: Kubectl, tmp_path: Path) -> None:
    """A component is tried on top of what it is a component for."""
    if KUSTOMIZATIONS[folder]["kind"] == "Component":
        base, component = (os.path.relpath(path, tmp_path.resolve()) for path in (MANIFESTS / "install", folder))
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "components": [component]}))
        folder = tmp_path
    assert_accepted(kubectl, kubectl("kustomize", folder))


def test_kustomize_renames_what_a_run_refers_to(kubectl: Kubectl, tmp_path: Path) -> None:
    rows = {"configMapRef": {"name": "rows", "key": "train.jsonl"}}
    run = run_body("tone", dataset={"sources": [rows]}, evaluation={"dataset": rows})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    kustomization = {
        "resources": ["run.yaml"],
        "namePrefix": "a-",
        "configMapGenerator": [{"name": "rows", "namespace": NAMESPACE, "literals": ["train.jsonl={}"]}],
        "components": [os.path.relpath(MANIFESTS / "kustomize", tmp_path.resolve())],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    config_map, renamed = yaml.safe_load_all(kubectl("kustomize", tmp_path))
    assert config_map["metadata"]["name"].startswith("a-rows-")
    references = [renamed["spec"]["dataset"]["sources"][0], renamed["spec"]["evaluation"]["dataset"]]
    assert [each["configMapRef"]["name"] for each in references] == [config_map["metadata"]["name"]] * 2


@pytest.mark.parametrize("folder", TEAMS, ids=name)
def test_the_folder_of_a_team_puts_everything_into_its_namespace(folder: Path, kubectl: Kubectl) -> None:
    team = KUSTOMIZATIONS[folder]["namespace"]
    namespace, *others = sorted(
        yaml.safe_load_all(kubectl("kustomize", folder)), key=lambda body: body["kind"] != "Namespace"
    )
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", team)
    assert {body["metadata"]["namespace"] for body in others} == {team}
    assert {body["kind"] for body in others} == {"NetworkPolicy", "ResourceQuota", "RoleBinding"}
    (binding,) = [body for body in others if body["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == [team], "the group of these folders has its name"


@pytest.mark.parametrize("file", loose_files(), ids=name)
def test_file_is_accepted(file: Path, kubectl: Kubectl) -> None:
    assert_accepted(kubectl, file.read_text())


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_a_sample_that_asks_for_too_much_is_refused_by_its_class(sample: Path, kubectl: Kubectl) -> None:
    body = greedy(sample)
    said = refusal(kubectl, body)
    assert f"spec.maxRuntimeSeconds is {LONGEST + 1}" in said
    assert f"LoraFineTuneClass {body['spec']['className']} allows at most {LONGEST}" in said
