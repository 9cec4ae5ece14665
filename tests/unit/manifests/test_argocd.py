"""The samples of Argo CD fit together: every set finds its folders, in a project that holds it to its own kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

Body = dict[str, Any]

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "manifests/argocd"
SETS = {"lora-teams": "applicationset.yaml", "lora-tenants": "tenants-applicationset.yaml"}
PROJECTS = {"lora-teams": "project.yaml", "lora-tenants": "tenants-project.yaml"}


def read(name: str) -> Body:
    return yaml.safe_load((FOLDER / name).read_text())


def folders(application_set: Body) -> list[Path]:
    """What its generator finds in this repository."""
    (generator,) = application_set["spec"]["generators"]
    return [folder for entry in generator["git"]["directories"] for folder in sorted(ROOT.glob(entry["path"]))]


@pytest.mark.parametrize("name", SETS)
def test_a_set_finds_its_folders_and_names_its_project(name: str) -> None:
    body, project = read(SETS[name]), read(PROJECTS[name])
    template = body["spec"]["template"]["spec"]
    (generator,) = body["spec"]["generators"]
    assert body["metadata"]["name"] == project["metadata"]["name"] == template["project"] == name
    assert [folder.name for folder in folders(body)] == ["team-a"]
    assert project["spec"]["sourceRepos"] == [template["source"]["repoURL"]] == [generator["git"]["repoURL"]]


def test_no_folder_and_no_name_is_in_both_sets() -> None:
    """A team that may change its runs cannot change its quota, and the sets do not fight over an Application."""
    sets = [read(name) for name in SETS.values()]
    assert not set(folders(sets[0])) & set(folders(sets[1]))
    assert len({body["spec"]["template"]["metadata"]["name"] for body in sets}) == len(sets)


def test_a_team_brings_runs_and_nothing_else() -> None:
    spec = read(PROJECTS["lora-teams"])["spec"]
    assert spec["namespaceResourceWhitelist"] == [{"group": "lora-operator.io", "kind": "LoraFineTune"}]
    assert "clusterResourceWhitelist" not in spec


def test_every_team_with_runs_has_a_namespace() -> None:
    teams, tenants = (folders(read(name)) for name in SETS.values())
    assert {folder.name for folder in teams} == {folder.name for folder in tenants}
