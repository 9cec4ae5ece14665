"""What the samples come to: each is resolved against the class it names, as the operator would, into its run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator.api.lorafinetune import parse_run
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.planning.plan import Create
from lora_operator.planning.reading import class_view
from lora_operator.workloads.resolved import RUN_KEY
from lora_trainer.contract.run import RunFile

from tests.builders import T0, UID, stamp
from tests.unit.operator.simulation import Simulation

Body = dict[str, Any]

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"
GOLDEN = ROOT / "tests/golden/samples"
SAMPLES = sorted((MANIFESTS / "samples").rglob("*.yaml"))
CLASSES = sorted((MANIFESTS / "classes").glob("*.yaml"))
UNSET = "gpu-24g"
"""The class of samples that name none."""
DEMO = "text-to-sql-demo"
"""The sample that is made for the demo's class."""


def read(path: Path) -> Body:
    return yaml.safe_load(path.read_text())


def class_of(sample: Path) -> Body:
    if sample.stem == DEMO:
        return read(MANIFESTS / "demo/class.yaml")
    return read(MANIFESTS / f"classes/{read(sample)['spec'].get('className', UNSET)}.yaml")


def run_file(sample: Path) -> str:
    """What the operator puts into the run's ConfigMap."""
    body = read(sample)
    stored = {"uid": UID, "resourceVersion": "1", "generation": 1, "creationTimestamp": stamp(T0)}
    of_class = class_of(sample)
    for each in (body, of_class):
        each["metadata"] |= stored
    world = Simulation(run=parse_run(body), classes=(class_view(of_class),))
    world.reconcile()  # records it
    plan = world.reconcile()
    assert plan.actions, [condition.message for condition in plan.status.conditions]
    config_map = next(a.body for a in plan.actions if isinstance(a, Create) and a.body["kind"] == "ConfigMap")
    return json.dumps(RunFile.model_validate_json(config_map["data"][RUN_KEY]).wire(), indent=2) + "\n"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_run_file_of_a_sample(sample: Path, request: pytest.FixtureRequest) -> None:
    rendered, path = run_file(sample), GOLDEN / f"{sample.stem}.json"
    if request.config.getoption("--update-golden"):
        path.write_text(rendered)
    assert path.read_text() == rendered, "look at the difference; if it is meant, run pytest --update-golden"


def test_there_is_no_golden_file_without_a_sample() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {sample.stem for sample in SAMPLES}


def test_all_samples_can_be_applied_to_one_cluster() -> None:
    """A second run of the same name would be refused as a change of the first."""
    bodies = [read(sample) for sample in SAMPLES]
    for what in (
        lambda body: (body["metadata"]["namespace"], body["metadata"]["name"]),
        lambda body: body["spec"]["output"]["uri"],
    ):
        assert len({what(body) for body in bodies}) == len(bodies)


def test_a_complete_run_takes_twelve_lines() -> None:
    lines = (MANIFESTS / "samples/llama-3.2-3b.yaml").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 12


@pytest.mark.parametrize("path", CLASSES, ids=lambda path: path.stem)
def test_the_classes_are_valid(path: Path) -> None:
    LoraFineTuneClassSpec.model_validate(read(path)["spec"])
