"""Stopped, killed and resumed runs end with the same bytes as the uninterrupted one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION, LOSS_CURVE, MANIFEST, RUN_SHAPE, TRAINING_LOG
from lora_trainer.contract.outcome import Outcome
from lora_trainer.contract.progress import Phase, Progress

from tests.support.object_store import ObjectStore
from tests.support.trained import STEPS, SmallRun, small_run
from tests.trainer.conftest import Trained

LONGEST_STOP_SECONDS = 30
"""A quarter of the grace period: tests share their processors."""


def stop_at(small: SmallRun, number: int, reached: Callable[[Progress], bool]) -> Outcome:
    """The termination message of an attempt that gets SIGTERM as soon as `reached`, and must be gone soon after."""
    with small.attempt(number) as attempt:
        attempt.wait_until(reached)
        asked = time.monotonic()
        stopped = attempt.signal(signal.SIGTERM)
        took = time.monotonic() - asked
    assert stopped.code == ExitCode.Interrupted, stopped.log
    assert stopped.outcome
    assert took < LONGEST_STOP_SECONDS, stopped.log
    return stopped.outcome


@pytest.fixture
def resumed(store: ObjectStore, trained: Trained, tmp_path: Path) -> SmallRun:
    """The same run as `trained` under another name: stopped in every stage, killed without a word, then left alone."""
    small = small_run(store, tmp_path, name="resumed", training={"saveSteps": 1})
    assert small.digest == trained.small.digest

    loading = stop_at(small, 1, lambda progress: progress.phase is Phase.LOADING)
    assert (loading.step, loading.checkpoint) == (0, None)
    first_step = stop_at(small, 2, lambda progress: progress.phase is Phase.TRAINING)
    assert (first_step.step, first_step.checkpoint) == (0, None), "the first step is not waited for: it may compile"

    stepping = stop_at(small, 3, lambda progress: progress.step >= 1)
    assert stepping.step
    assert 1 <= stepping.step < STEPS
    assert stepping.checkpoint
    assert stepping.checkpoint.endswith(f"/step-{stepping.step}")

    with small.attempt(4) as attempt:
        began = attempt.wait_until(lambda progress: progress.resumed_from_step is not None)
        assert began.resumed_from_step == stepping.step
        reached = stepping.step + 1
        attempt.wait_until(lambda progress: (progress.checkpoint_step or 0) >= reached)
        assert attempt.signal(signal.SIGKILL).outcome is None

    evaluating = stop_at(small, 5, lambda progress: progress.phase is Phase.EVALUATING)
    assert (evaluating.from_step or 0) >= reached
    assert evaluating.step == STEPS
    publishing = stop_at(small, 6, lambda progress: progress.phase in (Phase.PUBLISHING, Phase.VERIFYING))
    assert publishing.from_step == STEPS, "no step is repeated after the last"
    with pytest.raises(FileNotFoundError):
        small.bucket.read(f"{small.artifact}/{MANIFEST}")

    with small.attempt(7) as attempt:
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
    assert ended.result.usage.train_seconds == 0
    assert small.bucket.read(f"{small.artifact}/{MANIFEST}") == manifest
