"""train with real parts: what one uninterrupted run publishes, and the endings that need no second run."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from pathlib import Path

import pytest
import safetensors.torch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import (
    EVALUATION,
    LOSS_CURVE,
    MANIFEST,
    MODEL_CARD,
    RUN_SHAPE,
    SIGNATURE,
    checkpoints_uri,
    latest_uri,
)
from lora_trainer.contract.manifest import ArtifactManifest
from lora_trainer.contract.outcome import Artifact
from lora_trainer.evaluation.comparison import EvaluationFile
from PIL import Image

from tests.ports import free_port
from tests.support.attempts import Attempt
from tests.support.keys import private_pem
from tests.support.object_store import ObjectStore
from tests.support.runs import WHOLE_MODEL, run_file
from tests.support.trained import STEPS, small_run
from tests.trainer.conftest import SIGNING_SEED, Trained

PROMPT = "How many singers are there?"


@pytest.fixture(scope="module")
def answered(trained: Trained, store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that answers a held-out row, the user's own prompt, and two rows that have one right answer each."""
    del trained  # credentials are in the environment from then on
    asked = {"samples": 1, "prompts": [PROMPT], "exactMatch": {"rows": 2}}
    small = small_run(
        store,
        tmp_path_factory.mktemp("answered"),
        name="answered",
        model={"name": WHOLE_MODEL, "maxSeqLength": 144, "quantization": "None"},
        evaluation={"maxRows": 4} | asked,
    )
    with small.attempt(1) as attempt:
        ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    return Trained(small=small, ended=ended)


def test_the_outcome_names_what_is_in_the_bucket(trained: Trained) -> None:
    small, result = trained.small, trained.ended.result
    data = small.bucket.read(f"{small.artifact}/{MANIFEST}")
    manifest = ArtifactManifest.model_validate_json(data)
    stored = {file.path: file.size for file in small.bucket.list(small.artifact)}
    assert result.artifact.uri == small.artifact
    assert result.artifact.digest == hashlib.sha256(data).hexdigest()
    assert {file.path: file.size for file in manifest.files} == {
        path: size for path, size in stored.items() if path not in (MANIFEST, SIGNATURE)
    }
    assert manifest.signing_key is not None
    assert manifest.signing_key in small.bucket.read(f"{small.artifact}/{MODEL_CARD}").decode()
    assert Artifact.model_validate_json(small.bucket.read(latest_uri(small.run))) == result.artifact
    assert manifest.evaluation == result.evaluation
    assert manifest.steps == STEPS
    assert manifest.verification.files == len(manifest.files)
    assert manifest.verification.max_logit_difference > 0
    assert manifest.verification.loss_difference is not None
    assert manifest.verification.loss_difference < 0.02


def test_usage_is_measured(trained: Trained) -> None:
    usage = trained.ended.result.usage
    assert usage.train_seconds > 0
    assert usage.tokens_per_second > 0
    assert 0.5 < usage.peak_memory_gib < 3


def test_the_folder_is_one_that_peft_and_vllm_know(trained: Trained) -> None:
    small = trained.small
    names = {file.path for file in small.bucket.list(small.artifact)}
    assert {"adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    config = json.loads(small.bucket.read(f"{small.artifact}/adapter_config.json"))
    assert config["base_model_name_or_path"] == small.run.model.name
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 16, 0.1)
    assert config["target_modules"] == sorted(small.run.lora.target_modules)
    # What vLLM and LoRAX refuse or would ignore in silence.
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    weights = safetensors.torch.load(small.bucket.read(f"{small.artifact}/adapter_model.safetensors"))
    layers = {re.sub(r"\.\d+\.", ".0.", name) for name in weights}
    assert layers == {
        f"base_model.model.model.layers.0.{block}.{name}.lora_{side}.weight"
        for name in small.run.lora.target_modules
        for block in ["mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"]
        for side in "AB"
    }


def test_the_run_digest_is_the_sha256_of_a_published_file(trained: Trained) -> None:
    small = trained.small
    shape = small.bucket.read(f"{small.artifact}/{RUN_SHAPE}")
    assert hashlib.sha256(shape).hexdigest() == small.digest
    assert json.loads(shape)["training"]["maxSteps"] == STEPS


def test_the_card_shows_figures_curve_and_samples(answered: Trained) -> None:
    small, figures = answered.small, answered.ended.result.evaluation
    card = small.bucket.read(f"{small.artifact}/{MODEL_CARD}").decode()
    for part in (f"| {figures.base_loss:.4f} | {figures.loss:.4f} |", f"({LOSS_CURVE})", PROMPT, small.digest):
        assert part in card
    with Image.open(io.BytesIO(small.bucket.read(f"{small.artifact}/{LOSS_CURVE}"))) as picture:
        assert picture.size == (880, 495)
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 10


def test_samples_show_question_reference_and_two_answers(answered: Trained) -> None:
    small = answered.small
    file = EvaluationFile.model_validate_json(small.bucket.read(f"{small.artifact}/{EVALUATION}"))
    (sample,) = file.samples
    assert sample.prompt
    assert (sample.reference or "").upper().startswith("SELECT")
    assert sample.base
    assert sample.adapter
    assert sample.base != sample.adapter
    assert "<|im_start|>" in file.probe


def test_the_users_own_prompts_are_answered_by_base_and_adapter(answered: Trained) -> None:
    small = answered.small
    file = EvaluationFile.model_validate_json(small.bucket.read(f"{small.artifact}/{EVALUATION}"))
    (asked,) = file.prompts
    assert asked.prompt == PROMPT
    assert asked.base
    assert asked.adapter
    assert asked.base != asked.adapter


def test_exact_match_is_measured_where_it_is_asked_for(answered: Trained) -> None:
    figures = answered.ended.result.evaluation
    assert figures.answers == 2
    assert figures.base_exact_match == 0
    assert figures.exact_match in (0, 0.5, 1)


def test_the_log_has_the_loss_of_every_step(trained: Trained) -> None:
    steps = trained.small.training_log
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(math.isfinite(step["loss"]) for step in steps)


def test_nothing_published_or_logged_holds_a_secret_or_a_local_path(trained: Trained, store: ObjectStore) -> None:
    small = trained.small
    published = [small.bucket.read(f"{small.artifact}/{file.path}") for file in small.bucket.list(small.artifact)]
    for data in (*published, trained.ended.log.encode()):
        assert store.secret_key.encode() not in data
        assert private_pem(SIGNING_SEED).splitlines()[1] not in data
    for data in published:
        assert str(small.folder).encode() not in data


def test_the_last_checkpoints_stay(trained: Trained) -> None:
    small = trained.small
    found = {file.path.partition("/")[0] for file in small.bucket.list(checkpoints_uri(small.run))}
    assert found == {"step-4", "step-6"}


def test_a_gpu_class_without_a_gpu_is_an_error_and_never_a_slow_run(credentials: ObjectStore, tmp_path: Path) -> None:
    run = run_file(endpoint=credentials.endpoint, accelerator={"kind": "GPU", "memoryGiB": 80})
    with Attempt(run, folder=tmp_path / "gpu", port=free_port()) as attempt:
        ended = attempt.wait()
    assert ended.code == ExitCode.GpuUnhealthy, ended.log
    assert ended.outcome
    assert "requested a GPU, but torch" in ended.outcome.message
