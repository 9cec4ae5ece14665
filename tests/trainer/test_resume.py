"""Stopped, killed and resumed runs end with the same bytes as the uninterrupted one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION, LOSS_CURVE, MANIFEST, RUN_SHAPE, TRAINING_LOG
from lora_trainer.contract.outcome import TrainResult

from tests.support.object_store import ObjectStore
from tests.support.trained import STEPS, SmallRun, small_run
from tests.trainer.conftest import Trained


@pytest.fixture
def resumed(store: ObjectStore, trained: Trained, tmp_path: Path) -> SmallRun:
    """The same run as `trained` under another name: stopped, then killed without a word, then left alone."""
    small = small_run(store, tmp_path, name="resumed", training={"saveSteps": 1})
    assert small.digest == trained.small.digest
    with small.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.step >= 1)
        stopped = attempt.signal(signal.SIGTERM)
    assert stopped.code == ExitCode.Interrupted, stopped.log
    assert stopped.outcome
    assert stopped.outcome.step
    assert 1 <= stopped.outcome.step < STEPS
    assert stopped.outcome.checkpoint
    assert stopped.outcome.checkpoint.endswith(f"/step-{stopped.outcome.step}")
    with small.attempt(2) as attempt:
        began = attempt.wait_until(lambda progress: progress.resumed_from_step is not None)
        assert began.resumed_from_step == stopped.outcome.step
        reached = stopped.outcome.step + 1
        attempt.wait_until(lambda progress: (progress.checkpoint_step or 0) >= reached)
        assert attempt.signal(signal.SIGKILL).outcome is None
    with small.attempt(3) as attempt:
        began = attempt.wait_until(lambda progress: progress.resumed_from_step is not None)
        assert (began.resumed_from_step or 0) >= reached
        ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    return small


@pytest.mark.timeout(1500)
def test_an_interrupted_run_publishes_the_bytes_of_an_uninterrupted_one(trained: Trained, resumed: SmallRun) -> None:
    for name in ("adapter_model.safetensors", TRAINING_LOG, EVALUATION, LOSS_CURVE, RUN_SHAPE):
        ours = resumed.bucket.read(f"{resumed.artifact}/{name}")
        assert ours == trained.small.bucket.read(f"{trained.small.artifact}/{name}"), name


@pytest.mark.timeout(900)
def test_no_step_is_repeated_where_only_the_publishing_was_lost(trained: Trained) -> None:
    small = trained.small
    manifest = small.bucket.read(f"{small.artifact}/{MANIFEST}")
    small.bucket.delete(f"{small.artifact}/{MANIFEST}")
    with small.attempt(2) as attempt:
        ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    assert ended.outcome
    assert isinstance(ended.outcome.result, TrainResult)
    assert ended.outcome.result.usage.train_seconds == 0
    assert small.bucket.read(f"{small.artifact}/{MANIFEST}") == manifest
