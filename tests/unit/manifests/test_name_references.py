"""The kustomize component that renames what a run refers to: it has every reference of the CRD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lora_operator.generate.crds import run_crd
from lora_operator.naming import CLASS_KIND, RUN_KIND

FILE = Path(__file__).parents[3] / "manifests/kustomize/name-references.yaml"
KINDS = {
    "configMapRef": "ConfigMap",
    "claimRef": "PersistentVolumeClaim",
    "tokenSecretRef": "Secret",
    "keySecretRef": "Secret",
}
NAMES = {"className": CLASS_KIND}


def references(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Kind and path of every reference below a path; kustomize writes no sign for the items of a list."""
    schema = schema.get("items", schema)
    for name, child in schema.get("properties", {}).items():
        if name in NAMES:
            yield NAMES[name], f"{path}/{name}"
        elif name.endswith("Ref"):
            yield KINDS[name], f"{path}/{name}/name"
        else:
            yield from references(child, f"{path}/{name}")


def test_kustomize_is_told_of_every_reference() -> None:
    schema = run_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    told = {
        (entry["kind"], field["path"])
        for entry in yaml.safe_load(FILE.read_text())["nameReference"]
        for field in entry["fieldSpecs"]
        if field["kind"] == RUN_KIND
    }
    assert told == set(references(schema["properties"]["spec"], "spec"))
