"""The base of a team's folder, and the folders that ship: small, without keys, and with room for a run.

What kustomize makes of them is tested by tests/cluster/test_manifests.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.api.lorafinetune import LoraFineTuneStatus, Work
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.quantity import in_gib
from lora_operator.naming import Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import resolve

from tests.builders import a_run

Body = dict[str, Any]

FOLDER = Path(__file__).parents[3] / "manifests"
BASE = FOLDER / "tenant"
OVERLAYS = [FOLDER / "demo/tenant", *sorted((FOLDER / "argocd/repository/tenants").iterdir())]
CLASSES = [FOLDER / "demo/class.yaml", *sorted((FOLDER / "classes").glob("*.yaml"))]


def kustomization(folder: Path) -> Body:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def base() -> dict[str, Body]:
    """The objects of the base by kind, bar the network policies."""
    files = [BASE / name for name in kustomization(BASE)["resources"] if name.endswith(".yaml")]
    return {body["kind"]: body for file in files for body in yaml.safe_load_all(file.read_text())}


def requested(path: Path, stage: Stage) -> dict[str, str]:
    """What the pod of a run of a class requests."""
    spec = LoraFineTuneClassSpec.model_validate(yaml.safe_load(path.read_text())["spec"])
    run = a_run(status=LoraFineTuneStatus(work=Work(uri="s3://lora-work/team-a/run/uid")))
    resolved = resolve(run, class_name=path.stem, class_spec=spec)
    job = stage_job(StageRequest(run=run, resolved=resolved, stage=stage, attempt=1))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container["resources"]["requests"]


def test_the_base_is_whole_and_reuses_the_network_policies() -> None:
    resources = kustomization(BASE)["resources"]
    assert {name for name in resources if name.endswith(".yaml")} | {"kustomization.yaml"} == {
        path.name for path in BASE.iterdir()
    }
    assert "../network/tenant" in resources
    assert set(base()) == {"Namespace", "RoleBinding", "ResourceQuota"}


def test_only_the_folder_of_a_team_names_a_namespace() -> None:
    assert "namespace" not in kustomization(BASE)
    assert not [kind for kind, body in base().items() if "namespace" in body["metadata"]]


def test_the_group_gets_the_narrow_role_and_nobody_has_it_before() -> None:
    binding = base()["RoleBinding"]
    roles = yaml.safe_load_all((FOLDER / "users/roles.yaml").read_text())
    assert binding["roleRef"]["name"] == "lora-operator-user"
    assert binding["roleRef"]["name"] in {role["metadata"]["name"] for role in roles}
    assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [
        ("Group", "lora-operator.io:unset")
    ]


def test_pods_of_a_tenant_are_held_to_the_restricted_standard() -> None:
    assert base()["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("path", CLASSES, ids=lambda path: path.stem)
def test_a_run_of_every_class_fits_into_the_quota(path: Path, stage: Stage) -> None:
    """A quota on CPU or memory also refuses pods that do not say what they request of it."""
    hard = base()["ResourceQuota"]["spec"]["hard"]
    asked = {f"requests.{name}": str(amount) for name, amount in requested(path, stage).items()}
    assert {"requests.cpu", "requests.memory"} <= set(asked)
    assert not [name for name in asked.keys() & hard.keys() if in_gib(asked[name]) > in_gib(hard[name])]


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.parts[-3])
def test_the_folder_of_a_team_is_small(folder: Path) -> None:
    """It writes the name of the namespace once, and that of the group once."""
    content = kustomization(folder)
    (resource,) = content["resources"]
    assert (folder / resource).resolve() == BASE
    (patch,) = content["patches"]
    target = base()[patch["target"]["kind"]]
    assert patch["target"]["name"] == target["metadata"]["name"]
    (operation,) = yaml.safe_load(patch["patch"])
    assert (operation["op"], operation["path"]) == ("replace", "/subjects/0/name")
    assert json.dumps(content).count(content["namespace"]) <= 2


def test_no_secret_is_in_git() -> None:
    def makes_one(body: object) -> bool:
        return isinstance(body, dict) and (body.get("kind") == "Secret" or "secretGenerator" in body)

    files = [file for file in FOLDER.rglob("*.yaml") if any(map(makes_one, yaml.safe_load_all(file.read_text())))]
    assert files == []


def test_the_project_of_tenants_allows_what_the_base_has_and_nothing_else() -> None:
    spec = yaml.safe_load((FOLDER / "argocd/tenants-project.yaml").read_text())["spec"]
    allowed = [*spec["clusterResourceWhitelist"], *spec["namespaceResourceWhitelist"]]
    policies = yaml.safe_load_all((FOLDER / "network/tenant/policies.yaml").read_text())
    bodies = [*base().values(), *policies]
    kinds = {(body["apiVersion"].rpartition("/")[0], body["kind"]) for body in bodies}
    assert {(entry["group"], entry["kind"]) for entry in allowed} == kinds


def test_a_namespace_that_is_missing_in_git_is_not_deleted() -> None:
    annotations = base()["Namespace"]["metadata"]["annotations"]
    options = annotations["argocd.argoproj.io/sync-options"].split(",")
    assert sorted(options) == ["Delete=false", "Prune=false"]
    assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
