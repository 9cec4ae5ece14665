"""The test data of Argo CD's health scripts are objects as the operator leaves them, and all tools agree on them."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.api.lorafinetune import LoraFineTuneSpec, LoraFineTuneStatus
from lora_operator.planning.class_status import class_status
from lora_operator.planning.reading import class_view

from tests import kstatus

FOLDER = Path(__file__).resolve().parents[3] / "manifests/argocd/settings/resource_customizations/lora-operator.io"


def listed(kind: str) -> dict[Path, str]:
    """Files of objects and the health that Argo CD is to show."""
    tests = yaml.safe_load((FOLDER / kind / "health_test.yaml").read_text())["tests"]
    return {FOLDER / kind / entry["inputPath"]: entry["healthStatus"]["status"] for entry in tests}


RUNS, CLASSES = listed("LoraFineTune"), listed("LoraFineTuneClass")
WITH_STATUS = {file: health for file, health in {**RUNS, **CLASSES}.items() if "\nstatus:" in file.read_text()}


def body(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def name(file: Path) -> str:
    return f"{file.parts[-3]}-{file.stem}"


def test_every_file_is_listed() -> None:
    assert RUNS.keys() | CLASSES.keys() == set(FOLDER.rglob("testdata/*"))


@pytest.mark.parametrize("file", RUNS, ids=name)
def test_a_run_is_as_the_operator_would_write_it(file: Path) -> None:
    run = body(file)
    LoraFineTuneSpec.model_validate(run["spec"])
    LoraFineTuneStatus.model_validate(run["status"])
    assert kstatus.breaches(run["status"], generation=run["metadata"]["generation"]) == []


@pytest.mark.parametrize("file", [file for file in CLASSES if file in WITH_STATUS], ids=name)
def test_a_class_is_as_the_operator_writes_it(file: Path) -> None:
    seen = body(file)
    status = seen.pop("status")
    seen["metadata"] |= {"uid": "any", "resourceVersion": "1", "generation": status["observedGeneration"]}
    now = datetime.fromisoformat(status["conditions"][0]["lastTransitionTime"])
    runs = status["unfinishedRuns"]
    assert class_status(class_view(seen), defaults=(), unfinished=runs, problems=Counter(), now=now).wire() == status


@pytest.mark.parametrize("file", WITH_STATUS, ids=name)
def test_argo_and_kstatus_agree(file: Path) -> None:
    """Argo CD has a word more, Suspended."""
    same = {"Healthy": "Current", "Degraded": "Failed", "Progressing": "InProgress", "Suspended": "InProgress"}
    assert kstatus.kstatus(body(file)) == same[WITH_STATUS[file]]
