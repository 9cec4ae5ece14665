"""Several processes, on one node as several GPUs would have them, and on two nodes: gloo on CPU, real weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST
from lora_trainer.contract.progress import Phase

from tests.ports import free_port
from tests.support.attempts import Attempt, Ended
from tests.support.object_store import ObjectStore
from tests.support.trained import SmallRun, small_run

STEPS = 4
TRAINING = {"maxSteps": STEPS, "saveSteps": 1}
LORA = {"loraDropout": 0.0}


def losses(small: SmallRun) -> list[float]:
    return [step["loss"] for step in small.training_log]


@pytest.fixture(scope="module")
def alone(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[float]]:
    """The losses of one process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        small = small_run(store, tmp_path_factory.mktemp("alone"), name="alone", training=TRAINING, lora=LORA)
        with small.attempt(1) as attempt:
            assert attempt.wait().code == ExitCode.Succeeded
        yield losses(small)


def two_processes(store: ObjectStore, folder: Path, *, name: str, of: str = "gpus") -> SmallRun:
    """A run with the effective batch of small_run's, shared by two processes."""
    training = TRAINING | {"gradientAccumulationSteps": 1}
    return small_run(store, folder, name=name, training=training, lora=LORA, parallelism={of: 2})


def two_nodes(small: SmallRun, *, attempt: int) -> list[Attempt]:
    """The pods of one attempt, the first one first."""
    rendezvous = free_port()
    return [small.node(node, attempt=attempt, rendezvous=rendezvous) for node in range(2)]


@pytest.mark.timeout(1200)
def test_two_processes_train_what_one_does_also_when_stopped_and_resumed(
    credentials: ObjectStore, tmp_path: Path, alone: list[float]
) -> None:
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
    assert losses(shared) == pytest.approx(alone, rel=0.02)


@pytest.mark.timeout(600)
def test_a_process_that_dies_ends_the_attempt_with_a_code_that_is_retried(
    credentials: ObjectStore, tmp_path: Path
) -> None:
    small = two_processes(credentials, tmp_path, name="dead-rank")
    with small.attempt(1) as attempt:
        attempt.wait_until(lambda progress: progress.phase is Phase.TRAINING)
        (other,) = children(attempt.pid)
        os.kill(other, signal.SIGKILL)
        ended = attempt.wait()
    assert ended.code == ExitCode.ProcessLost, ended.log
    assert ended.outcome
    assert ended.outcome.message == "Process 1 of 2 exited with code -9 and without a message."


def children(pid: int) -> list[int]:
    """Processes that any thread of this one started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


@pytest.mark.timeout(1800)
def test_two_nodes_train_what_one_does_also_when_one_is_drained_or_killed(
    credentials: ObjectStore, tmp_path: Path, alone: list[float]
) -> None:
    small = two_processes(credentials, tmp_path, name="nodes", of="nodes")
    first, second = two_nodes(small, attempt=1)
    with first, second:
        second.wait_until(lambda progress: progress.phase is Phase.LOADING)
        second.signal(signal.SIGKILL)
        lonely = first.wait()
    assert lonely.code == ExitCode.PeerLost, lonely.log
    assert lonely.outcome
    assert "The pod of node 1 of 2 was lost" in lonely.outcome.message
    first, second = two_nodes(small, attempt=2)
    with first, second:
        first.wait_until(lambda progress: progress.step >= 1)
        drained, stopped = second.signal(signal.SIGTERM), first.wait()
    assert (drained.code, stopped.code) == (ExitCode.Interrupted, ExitCode.Interrupted), drained.log + stopped.log
    step = reached(stopped)
    assert stopped.outcome
    assert stopped.outcome.checkpoint
    assert stopped.outcome.checkpoint.endswith(f"/step-{step}"), "both took the step, and the first committed it"
    first, second = two_nodes(small, attempt=3)
    with first, second:
        ended, other = first.wait(), second.wait()
    assert ended.code == other.code == ExitCode.Succeeded, ended.log + other.log
    assert ended.outcome
    assert ended.outcome.from_step == step
    assert other.outcome
    assert other.outcome.result is None
    assert reached(other) == STEPS
    assert losses(small) == pytest.approx(alone, rel=0.02)
    small.bucket.delete(f"{small.artifact}/{MANIFEST}")
    first = small.node(0, attempt=4, rendezvous=(rendezvous := free_port()))
    with first:
        # A queue that suspends a Job while its first pod evaluates resumes that pod alone: the others have succeeded.
        first.wait_until(lambda progress: progress.phase is Phase.EVALUATING)
        with small.node(1, attempt=4, rendezvous=rendezvous) as second:
            ended, other = first.wait(), second.wait()
    assert ended.result.usage.train_seconds == 0
    assert other.code == ExitCode.Succeeded, other.log


def reached(ended: Ended) -> int:
    assert ended.outcome
    assert ended.outcome.step
    return ended.outcome.step
