"""The real Argo CD sees no difference between git and cluster, whatever runs and classes hold, however it applies them.

Every sample and class of the product is tried, and a run and a class with more lists than those have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import class_body, run_body
from tests.cluster.runs import Tenant
from tests.demo.environment import MANIFESTS
from tests.demo.kubectl import Kubectl
from tests.install import argocd
from tests.install.argocd import ArgoCD, standing
from tests.install.repository import Repository
from tests.install.test_argocd import CLUSTERS, argo, operation_start, programs, repository, sample, wait_until

__all__ = ["argo", "programs", "repository"]

Body = dict[str, Any]

SERVER_SIDE = {"syncOptions": ["ServerSideApply=true"]}
WAYS: dict[str, tuple[Body, Body]] = {
    "client-side": ({}, {}),
    "server-side": (SERVER_SIDE, {}),
    "server-side-diff": (SERVER_SIDE, {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"}),
}
"""How Argo CD applies and compares: part of an Application's syncPolicy, and its annotations."""
LISTS: Body = {
    "dataset": {"sources": [{"uri": "s3://team-a/a.jsonl"}, {"configMapRef": {"name": "rows", "key": "b.jsonl"}}]},
    "output": {
        "uri": "s3://team-a/adapters/lists",
        "exports": ["GGUF", "Merged16Bit"],
        "gguf": {"quantizationMethods": ["q8_0", "f16"]},
    },
    "lora": {"targetModules": ["q_proj", "v_proj"]},
    "evaluation": {
        "prompts": ["Where is my parcel?"],
        "gates": [{"metric": "Loss", "max": 2}, {"metric": "Improvement", "min": 0.1}],
    },
}
CLASS_LISTS: Body = {
    "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]},
    "allowed": {"models": ["meta-llama/*"], "datasets": ["s3://{namespace}/*"], "outputs": ["s3://{namespace}/*"]},
    "train": {"resources": {"requests": {"cpu": 4}}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
    "pod": {"env": [{"name": "B", "value": "1"}, {"name": "A", "value": "2"}]},
}


CLASSES = [yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "classes").glob("*.yaml"))]
RUNS = [yaml.safe_load(file.read_text()) for file in sorted((MANIFESTS / "samples").rglob("*.yaml"))]


@pytest.fixture
def teams(bare: Kubectl) -> Iterator[dict[str, Tenant]]:
    """A tenant for each way, in which nothing runs. Tests name it before argo, which would bring its runs again."""
    teams = {way: Tenant.fresh(bare) for way in WAYS}
    for team in teams.values():
        bare("create", "namespace", team.namespace)
    yield teams
    for team in teams.values():
        team.delete()
        names = [body["metadata"]["name"] for body in classes_of(team)]
        bare("delete", "lorafinetuneclass", "--ignore-not-found", *names)


def runs() -> list[Body]:
    """Every run, suspended."""
    lists = run_body("lists", model={"name": "meta-llama/Llama-3.2-1B"}, **LISTS)
    return [body | {"spec": body["spec"] | {"suspend": True}} for body in (lists, *RUNS)]


def classes_of(team: Tenant) -> list[Body]:
    """Every class under a name of the team's, none of them the default."""
    lists = class_body("lists", default=False, **CLASS_LISTS)
    return [body | {"metadata": {"name": f"{body['metadata']['name']}-{team.namespace}"}} for body in (lists, *CLASSES)]


def write_everything(repository: Repository, team: Tenant) -> Path:
    """A folder with all of them, for the team's namespace."""
    folder, files = Path("everything") / team.namespace, []
    for body in (*runs(), *classes_of(team)):
        files.append(f"{body['kind']}-{body['metadata']['name']}.yaml".lower())
        repository.write(folder / files[-1], body)
    repository.write(folder / "kustomization.yaml", {"namespace": team.namespace, "resources": files})
    return folder


def application(argo: ArgoCD, team: Tenant, way: str, folder: Path) -> Body:
    """An Application of the folder that heals what it takes for a difference."""
    policy, annotations = WAYS[way]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": way, "namespace": argocd.NAMESPACE, "annotations": annotations},
        "spec": {
            "project": "default",
            "source": {"repoURL": argo.url(CLUSTERS), "targetRevision": "HEAD", "path": str(folder)},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": team.namespace},
            "syncPolicy": {"automated": {"prune": True, "selfHeal": True}} | policy,
        },
    }


def all_seen(team: Tenant, bodies: list[Body]) -> bool:
    """Whether the operator has written the status of all of them."""
    found = (team.kubectl.find("-n", team.namespace, body["kind"], body["metadata"]["name"]) or {} for body in bodies)
    return all(body.get("status", {}).get("observedGeneration", -1) >= 1 for body in found)


def is_synced(app: Body) -> bool:
    return standing(app)[0] == "Synced"


@pytest.mark.timeout(900)
def test_there_are_no_differences(teams: dict[str, Tenant], argo: ArgoCD, repository: Repository) -> None:
    repository.commit("Bring operator and class")
    argo.kubectl.apply(sample(argo, "application.yaml"))
    wait_until(argo, "lora-operator", health="Healthy", what="operator and class")
    folders = {way: write_everything(repository, team) for way, team in teams.items()}
    repository.commit("Bring everything")
    for way, team in teams.items():
        argo.kubectl.apply(application(argo, team, way, folders[way]))

    for way, team in teams.items():
        bodies = [*runs(), *classes_of(team)]
        synced = operation_start(argo.wait(way, is_synced, "a sync", seconds=120))
        argo.kubectl.wait_for(f"all of {way} have a status", lambda team=team, bodies=bodies: all_seen(team, bodies))
        argo.refresh(way)
        app = argo.application(way) or {}
        compared = {entry["name"]: entry["status"] for entry in app["status"]["resources"]}
        assert compared == {body["metadata"]["name"]: "Synced" for body in bodies}, way
        assert operation_start(app) == synced, f"{way}: Argo CD healed something"
