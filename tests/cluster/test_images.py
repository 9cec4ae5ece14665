"""Every image carries a list of what it holds, in SPDX: what its hashed requirement file names, and Debian's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import spdx
from tests.cluster import images
from tests.cluster.settings import Paths
from tests.demo.environment import DOCKERFILES, REPOSITORY

LIST = "/usr/share/doc/lora-operator/sbom.spdx.json"
REQUIREMENTS = {"operator": "lora-operator", "prepare": "lora-trainer-prepare", "trainer": "lora-trainer"}
"""The requirement file of each image, and how the list calls the image."""
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
"""That of the images."""


def required(file: Path) -> set[tuple[str, str]]:
    """Canonical name and version of each requirement that is for the images' Python."""
    lines = (line.rstrip("\\ ") for line in file.read_text().splitlines() if line and line[0] not in " #")
    wanted = (Requirement(line) for line in lines)
    return {
        (canonicalize_name(requirement.name), str(requirement.specifier).removeprefix("=="))
        for requirement in wanted
        if requirement.marker is None or requirement.marker.evaluate(PYTHON)
    }


@pytest.mark.parametrize("tag", DOCKERFILES)
def test_an_image_lists_what_it_holds(tag: str) -> None:
    requirements = tag.rpartition("/")[2].partition(":")[0]
    document = json.loads(images.read_file(tag, LIST, paths=Paths.from_environment()))
    assert spdx.breaches(document) == []
    assert document["name"] == REQUIREMENTS[requirements]
    wanted = required(REPOSITORY / f"requirements/{requirements}.txt")
    assert len(wanted) > 20
    assert wanted - spdx.python_packages(document) == set()
    assert {"libc6", "python3.11"} <= {package["name"] for package in document["packages"]}
