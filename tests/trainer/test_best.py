"""Evaluation while training goes on: early stopping, the best adapter published, both exact over an interruption."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, TRAINING_LOG, checkpoints_uri
from lora_trainer.contract.manifest import ArtifactManifest, SetManifest
from lora_trainer.training.checkpoints import committed

from tests.support.object_store import ObjectStore
from tests.support.trained import SmallRun, small_run

TRAINING = {
    "maxSteps": 8,
    "perDeviceTrainBatchSize": 1,
    "gradientAccumulationSteps": 1,
    # It learns in the first step and is worse from the next ones on.
    "learningRate": 0.02,
    "lrSchedulerType": "constant",
    "warmupRatio": 0,
    "evalSteps": 1,
    "earlyStopping": {"patience": 2},
    "saveSteps": 1000,
    "saveTotalLimit": 1,
}


def forget_evaluation(small: SmallRun, folder: Path) -> None:
    """Make the newest checkpoint one whose evaluation was cut short by a request to stop."""
    newest = committed(small.bucket, checkpoints_uri(small.run))[0]
    manifest = small.bucket.read_manifest(newest.uri, SetManifest)
    assert manifest
    small.bucket.fetch_files(manifest.files, newest.uri, folder)
    file = folder / "trainer_state.json"
    state = json.loads(file.read_text())
    entries = [entry for entry in state["log_history"] if not ("eval_loss" in entry and entry["step"] == newest.step)]
    file.write_text(json.dumps(state | {"log_history": entries}))
    small.bucket.publish_set(
        folder,
        newest.uri,
        manifest=lambda files: SetManifest(fingerprint=manifest.fingerprint, step=manifest.step, files=files),
    )


@pytest.mark.timeout(1200)
def test_the_best_adapter_is_published_and_an_interruption_changes_nothing(
    credentials: ObjectStore, tmp_path: Path
) -> None:
    whole = small_run(credentials, tmp_path / "whole", name="best", training=TRAINING)
    with whole.attempt(1) as attempt:
        result = attempt.wait().result
    losses = {entry["step"]: entry["eval_loss"] for entry in whole.training_log}
    lowest = min(losses, key=lambda step: losses[step])
    assert result.best_step == lowest
    assert len(losses) == lowest + 2 < TRAINING["maxSteps"], "two evaluations without an improvement end it"
    assert result.evaluation.loss == pytest.approx(losses[lowest], rel=1e-6), "the adapter of the best step"
    manifest = ArtifactManifest.model_validate_json(whole.bucket.read(f"{whole.artifact}/{MANIFEST}"))
    assert manifest.steps == lowest
    kept = {found.step for found in committed(whole.bucket, checkpoints_uri(whole.run))}
    assert kept == {lowest, lowest + 2}, "the best one and the newest"

    broken = small_run(credentials, tmp_path / "broken", name="best-again", training=TRAINING)
    assert broken.digest == whole.digest
    with broken.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.step >= 1)
        assert attempt.signal(signal.SIGTERM).code == ExitCode.Interrupted
    forget_evaluation(broken, tmp_path / "checkpoint")
    with broken.attempt(2) as attempt:
        assert attempt.wait().result.best_step == lowest
    for name in ("adapter_model.safetensors", TRAINING_LOG):
        assert broken.bucket.read(f"{broken.artifact}/{name}") == whole.bucket.read(f"{whole.artifact}/{name}"), name
