"""Several processes on one node, as several GPUs would have them: gloo on CPU, real weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Stage

from tests.support.object_store import ObjectStore
from tests.support.trained import SmallRun, small_run

STEPS = 4
TRAINING = {"maxSteps": STEPS, "saveSteps": 1}
LORA = {"loraDropout": 0.0}


def losses(small: SmallRun) -> list[float]:
    return [step["loss"] for step in small.training_log]


def two_processes(store: ObjectStore, folder: Path, *, name: str) -> SmallRun:
    """A run with the effective batch of small_run's, shared by two processes."""
    training = TRAINING | {"gradientAccumulationSteps": 1}
    return small_run(store, folder, name=name, training=training, lora=LORA, resources={"gpus": 2})


@pytest.mark.timeout(1200)
def test_two_processes_train_what_one_does_also_when_stopped_and_resumed(
    credentials: ObjectStore, tmp_path: Path
) -> None:
    alone = small_run(credentials, tmp_path / "alone", name="alone", training=TRAINING, lora=LORA)
    with alone.attempt(1) as attempt:
        assert attempt.wait().code == ExitCode.Succeeded
    shared = two_processes(credentials, tmp_path / "shared", name="shared")
    with shared.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.step >= 1)
        stopped = attempt.signal(signal.SIGTERM)
    assert stopped.code == ExitCode.Interrupted, stopped.log
    assert stopped.outcome
    assert stopped.outcome.step
    assert stopped.outcome.checkpoint
    assert stopped.outcome.checkpoint.endswith(f"/step-{stopped.outcome.step}")
    with shared.attempt(2) as attempt:
        ended = attempt.wait()
    assert ended.code == ExitCode.Succeeded, ended.log
    assert ended.outcome
    assert ended.outcome.from_step == stopped.outcome.step
    assert losses(shared) == pytest.approx(losses(alone), rel=0.02)


@pytest.mark.timeout(600)
def test_a_process_that_dies_ends_the_attempt_with_a_code_that_is_retried(
    credentials: ObjectStore, tmp_path: Path
) -> None:
    small = two_processes(credentials, tmp_path, name="dead-rank")
    with small.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.stage is Stage.TRAINING)
        (other,) = children(attempt.pid)
        os.kill(other, signal.SIGKILL)
        ended = attempt.wait()
    assert ended.code == ExitCode.ProcessLost, ended.log
    assert ended.outcome
    assert ended.outcome.message == "Process 1 of 2 ended with code -9 and no explanation."


def children(pid: int) -> list[int]:
    """Processes that any thread of this one started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
