"""A platform team's git repository: the manifests of this one, and in it what Argo CD is pointed at."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.commands import run
from tests.cluster.runs import scripted_class
from tests.demo.environment import MANIFESTS, OPERATOR_IMAGE

SAMPLE = "https://git.example.com/platform/clusters.git"
"""What stands in the samples for the address of the repository."""
PLATFORM = Path("manifests/argocd/repository/lora-operator")
TENANTS = Path("manifests/argocd/repository/tenants")
TEAMS = Path("manifests/argocd/repository/teams")
SAMPLE_TEAM = "team-a"
"""The namespace of the sample's tenant, and the name of its group."""

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A working tree, of which every commit can be read at once."""

    folder: Path

    def create(self) -> None:
        """The sample with this machine's images, without tenants and runs."""
        shutil.copytree(MANIFESTS, self.folder / "manifests")
        shutil.rmtree(self.folder / TENANTS)
        shutil.rmtree(self.folder / TEAMS)
        platform = self.folder / PLATFORM / "kustomization.yaml"
        name, _, tag = OPERATOR_IMAGE.rpartition(":")
        image = {"name": "lora-operator", "newName": name, "newTag": tag}
        platform.write_text(yaml.safe_dump(yaml.safe_load(platform.read_text()) | {"images": [image]}))
        self.write(PLATFORM / "class.yaml", scripted_class())
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Platform team")
        self.git("config", "user.email", "platform@example.com")

    def write(self, path: Path, body: Body) -> None:
        """Have the object in a file."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(body))

    def add_tenant(self, name: str) -> None:
        """Have a folder for the tenant: the sample's, with another name for namespace and group."""
        sample = MANIFESTS.parent / TENANTS / SAMPLE_TEAM / "kustomization.yaml"
        file = self.folder / TENANTS / name / sample.name
        file.parent.mkdir(parents=True)
        file.write_text(sample.read_text().replace(SAMPLE_TEAM, name))

    def remove(self, path: Path) -> None:
        """Have a file or folder no longer."""
        self.git("rm", "-r", "--quiet", str(path))

    def offer_with_platform(self, *files: str) -> None:
        """Have the platform's kustomization bring these files of its folder besides operator and class."""
        file = self.folder / PLATFORM / "kustomization.yaml"
        content = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(content | {"resources": ["../../../install", "class.yaml", *files]}))

    def commit(self, message: str) -> str:
        """Commit everything and return the revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        """git, in this repository."""
        return run(["git", *arguments], cwd=self.folder)
