"""Resolving a base model from a folder and from a hub, without its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from lora_trainer.base_model.resolve import fetch_model, resolve_model
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket
from obstore.store import LocalStore

from tests.builders import model_at
from tests.support.model_hub import COMMIT, NAME, Hub
from tests.support.stub_server import Answer, stub_server
from tests.support.tiny_model import CONFIG, safetensors_bytes, tensor_shapes, write_tiny_model

PARAMETERS = sum(prod(shape) for shape in tensor_shapes().values())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def resolve(models: Path, name: str = "s3://models/tiny", revision: str | None = None):
    bucket = Bucket(open_store=lambda _: LocalStore(models), pvc_root=models.parent)
    spec = ModelSpec.model_validate(model_at(name))
    return resolve_model(
        spec.model_copy(update={"revision": revision}), bucket=bucket, folder=models.parent / "fetched"
    )


@pytest.mark.parametrize("scheme", ["s3", "pvc"])
def test_a_folder_is_resolved_without_its_weights(models: Path, scheme: str) -> None:
    write_tiny_model(models / "tiny")
    model = resolve(models, f"{scheme}://models/tiny")
    assert model.config == CONFIG
    assert model.figures.parameters == PARAMETERS
    assert model.figures.architecture == "LlamaForCausalLM"
    fetched = {path.name for path in model.folder.iterdir()}
    assert fetched == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_the_revision_is_that_of_the_contents(models: Path) -> None:
    write_tiny_model(models / "tiny")
    first = resolve(models, "pvc://models/tiny").figures.revision
    write_tiny_model(models / "tiny")
    (models / "tiny/README.md").write_text("not part of the model")
    assert resolve(models, "pvc://models/tiny").figures.revision == first, "the same files, copied anew"
    weights = models / "tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert resolve(models, "pvc://models/tiny").figures.revision != first


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def with_config(config: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(config)


def with_weights(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(change(weights.read_bytes()))

    return damage


def with_shards(*maps: dict[str, str]) -> Callable[[Path], object]:
    index = {"weight_map": {tensor: file for entry in maps for tensor, file in entry.items()}}
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps(index))


SIZE = len(safetensors_bytes())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("config.json"), "it has no config.json"),
        (without("model.safetensors"), "it has no .safetensors weights"),
        (with_config("{"), "its config.json is not JSON (line 1)"),
        (with_config("{}"), "names the architecture none"),
        (with_config(json.dumps(CONFIG | {"architectures": ["BertForMaskedLM"]})), "architecture BertForMaskedLM"),
        (with_config(json.dumps(CONFIG | {"quantization_config": {"quant_method": "gptq"}})), "quantised with gptq"),
        (with_weights(lambda weights: b"\xff" * len(weights)), "model.safetensors of the model is damaged: its header"),
        (with_weights(lambda weights: weights[:1]), "model.safetensors of the model is damaged: its header"),
        (with_weights(lambda weights: weights[:-7]), f"damaged: it has {SIZE - 7} bytes instead of {SIZE}"),
        (with_shards({"a": "model.safetensors"}, {"b": "model-2.safetensors"}), "names model-2.safetensors, which is"),
        (with_shards({"a": "model-1.safetensors", "b": "model-2.safetensors"}), "names model-1.safetensors and 1 more"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_usable_model(models: Path, damage: Callable[[Path], Any], words: str) -> None:
    damage(write_tiny_model(models / "tiny"))
    with pytest.raises(TrainerError) as caught:
        resolve(models)
    assert caught.value.code is ExitCode.ModelUnsupported
    assert words in caught.value.message
    assert caught.value.remedy


def test_a_folder_that_is_not_there(models: Path) -> None:
    with pytest.raises(TrainerError, match="no model at s3://models/tiny") as caught:
        resolve(models)
    assert caught.value.code is ExitCode.ModelNotFound


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    answers = Hub(write_tiny_model(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stub_server(answers) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield answers


def test_a_hub_model_is_pinned_to_its_commit(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    model = resolve(models, NAME, "main")
    assert model.figures.revision == COMMIT
    assert model.figures.parameters == PARAMETERS
    assert model.config == CONFIG
    assert (model.folder / "tokenizer.json").exists()
    assert not (model.folder / "model.safetensors").exists()
    assert "/revision/main" in hub.asked[0].path
    assert hub.asked[0].headers.get("Authorization", hub.asked[0].headers.get("authorization")) == "Bearer hf_token"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer(status=403, headers={"X-Error-Code": "GatedRepo"}), ExitCode.ModelAccessDenied, "refused access"),
        (Answer(status=401), ExitCode.ModelAccessDenied, "refused access"),
        (Answer(status=401, headers={"X-Error-Code": "RepoNotFound"}), ExitCode.ModelNotFound, "or it is private"),
        (Answer(status=404, headers={"X-Error-Code": "RepoNotFound"}), ExitCode.ModelNotFound, "has no model owner"),
        (Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"}), ExitCode.ModelNotFound, "at revision v9"),
        (Answer(status=500), ExitCode.HubUnavailable, "HTTP 500"),
    ],
)  # fmt: skip
def test_what_a_hub_may_answer(
    models: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, code: ExitCode, words: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stub_server(lambda _: answer) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(TrainerError) as caught:
            resolve(models, NAME, "v9")
    assert caught.value.code is code
    assert words in caught.value.message
    assert caught.value.remedy


def test_a_hub_that_is_not_there(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TrainerError, match="could not be reached") as caught:
        resolve(models, NAME)
    assert caught.value.code is ExitCode.HubUnavailable
    assert "copy the model to a bucket" in (caught.value.remedy or "")


@pytest.mark.parametrize("scheme", ["s3", "pvc"])
def test_a_model_is_fetched_whole_and_only_as_it_was_prepared(models: Path, scheme: str) -> None:
    write_tiny_model(models / "tiny")
    spec = ModelSpec.model_validate(model_at(f"{scheme}://models/tiny"))
    bucket = Bucket(open_store=lambda _: LocalStore(models), pvc_root=models.parent)
    revision = resolve(models, spec.address).figures.revision
    folder = fetch_model(spec, revision=revision, bucket=bucket, folder=models.parent / "whole")
    assert (folder / "model.safetensors").read_bytes() == (models / "tiny/model.safetensors").read_bytes()
    weights = models / "tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\1")
    with pytest.raises(TrainerError, match="has changed since the run was prepared") as changed:
        fetch_model(spec, revision=revision, bucket=bucket, folder=models.parent / "again")
    assert changed.value.code is ExitCode.ConfigInvalid
