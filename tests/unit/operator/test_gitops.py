"""The test data of Argo CD's health scripts are runs as the operator leaves them, and no two tools disagree on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.api.lorafinetune import LoraFineTuneSpec, LoraFineTuneStatus

from tests import kstatus

FOLDER = (
    Path(__file__).resolve().parents[3]
    / "manifests/argocd/settings/resource_customizations/lora-operator.io/LoraFineTune"
)
EXPECTED = {
    entry["inputPath"].removeprefix("testdata/"): entry["healthStatus"]["status"]
    for entry in yaml.safe_load((FOLDER / "health_test.yaml").read_text())["tests"]
}


def body(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "testdata" / name).read_text())


def test_every_file_is_listed() -> None:
    assert set(EXPECTED) == {path.name for path in (FOLDER / "testdata").iterdir()}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_what_the_operator_would_write(name: str) -> None:
    run = body(name)
    LoraFineTuneSpec.model_validate(run["spec"])
    LoraFineTuneStatus.model_validate(run["status"])
    assert kstatus.breaches(run["status"], generation=run["metadata"]["generation"]) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_argo_and_kstatus_agree(name: str) -> None:
    """Argo CD has a word more, Suspended."""
    same = {"Healthy": "Current", "Degraded": "Failed", "Progressing": "InProgress", "Suspended": "InProgress"}
    assert kstatus.kstatus(body(name)) == same[EXPECTED[name]]
