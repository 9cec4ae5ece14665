"""An operator that is upgraded before the trainer images of its classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from lora_trainer import __main__ as entry
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile, run_digest
from lora_trainer.contract.spec.training import TrainingSpec
from lora_trainer.errors import TrainerError
from pydantic import Field

from tests.builders import a_resolved, a_run
from tests.released_contract import current, released

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*-config-map.yaml"))
RELEASED = Draft202012Validator(released())
DEFAULT = 7


class NewerTraining(TrainingSpec):
    """spec.training of a later version."""

    new_setting: int = DEFAULT


class NewerRunFile(RunFile):
    """The run file of a later version, with a new field at the top and one further down."""

    training: NewerTraining  # pyright: ignore[reportIncompatibleVariableOverride] - a later version of the same
    new_block: dict[str, int] = Field(default_factory=dict)


def newer(**fields: Any) -> NewerRunFile:
    wire = a_resolved(a_run()).run_file.wire()
    training = wire["training"] | fields.pop("training", {})
    return NewerRunFile.model_validate(wire | {"training": training} | fields)


def refusals(text: str) -> list[str]:
    """What an older trainer complains of."""
    return [error.message for error in RELEASED.iter_errors(json.loads(text))]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_older_trainer_reads_what_this_operator_writes(path: Path) -> None:
    text = yaml.safe_load(path.read_text())["data"]["run.json"]
    assert refusals(text) == []
    run = RunFile.model_validate_json(text)
    assert RunFile.model_validate_json(run.text()) == run
    assert json.loads(run.text())["version"] == run.version


def test_a_new_field_that_is_unset_never_reaches_an_older_trainer() -> None:
    assert refusals(newer().text()) == []
    assert refusals(newer(training={"newSetting": DEFAULT}, newBlock={}).text()) == []


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"training": {"newSetting": 8}}, "training.newSetting"), ({"newBlock": {"a": 1}}, "newBlock")],
)
def test_a_new_field_that_is_set_is_named(tmp_path: Path, fields: dict[str, Any], name: str) -> None:
    text = newer(**fields).text()
    assert [name.rpartition(".")[2] in message for message in refusals(text)] == [True]
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(TrainerError) as caught:
        entry.read_run(tmp_path / "run.json")
    assert caught.value.code is ExitCode.ConfigInvalid
    assert f"does not know {name}." in caught.value.message
    assert "upgrade the class's image" in (caught.value.remedy or "")


def test_the_digest_is_that_of_a_run_file_with_all_defaults_written_out() -> None:
    """As operators of earlier versions wrote it: the same run still finds its adapter."""
    run = a_resolved(a_run()).run_file
    whole = RunFile.model_validate_json(run.model_dump_json(by_alias=True, exclude_none=True))
    assert len(run.text()) < len(whole.model_dump_json(by_alias=True, exclude_none=True))
    digests = {
        run_digest(each, data_digest="d", model_revision="r")
        for each in (run, whole, RunFile.model_validate_json(run.text()))
    }
    assert len(digests) == 1


def defaults(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The default of each field, by model and field."""
    for model, definition in {"RunFile": schema, **schema["$defs"]}.items():
        for name, field in definition.get("properties", {}).items():
            yield f"{model}.{name}", field.get("default", "none")


def test_no_default_of_the_last_release_has_changed() -> None:
    """An older trainer fills in its own. If a default must change, the operator writes the new one out."""
    now = dict(defaults(current()))
    assert {name: now.get(name) for name, _ in defaults(released())} == dict(defaults(released()))
