"""Every ending of a stage: its exit code, and what it leaves in the termination message."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lora_trainer import __main__ as entry
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import PrepareResult, decode_outcome
from lora_trainer.contract.progress import Phase, Progress
from lora_trainer.contract.run import RUN_FILE_SHA256_VARIABLE
from lora_trainer.errors import TrainerError

from tests.support.runs import run_file

SECRET = "the-secret-access-key"


def fails_with(error: Exception):
    def stage() -> PrepareResult:
        raise error

    return entry.finish(stage)


def test_a_trainer_error_is_passed_on_whole() -> None:
    error = TrainerError(ExitCode.Diverged, "It diverged.", "Lower it.")
    ending = fails_with(error)
    assert ending.code is ExitCode.Diverged
    outcome = ending.outcome
    assert (outcome.reason, outcome.message, outcome.remedy) == ("Diverged", "It diverged.", "Lower it.")


def test_the_last_word_says_how_far_training_came(tmp_path: Path) -> None:
    word = tmp_path / "last-word"
    ending = fails_with(TrainerError(ExitCode.Diverged, "It diverged."))
    progress = Progress(phase=Phase.TRAINING, step=7, total_steps=60, checkpoint="s3://b/step-6", resumed_from_step=3)
    assert entry.leave(ending, word, progress) == ExitCode.Diverged
    outcome = decode_outcome(word.read_text())
    assert outcome
    assert (outcome.step, outcome.from_step, outcome.checkpoint) == (7, 3, "s3://b/step-6")
    entry.leave(ending, word, Progress(phase=Phase.DATA))
    outcome = decode_outcome(word.read_text())
    assert outcome
    assert (outcome.step, outcome.from_step, outcome.checkpoint) == (None, None, None)


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize(
    ("error", "module", "code"),
    [
        (MemoryError(), None, ExitCode.OutOfMemory),
        (OutOfMemoryError("CUDA out of memory"), "torch", ExitCode.OutOfMemory),
        (OutOfMemoryError("of another kind"), "elsewhere", ExitCode.InternalError),
        (ZeroDivisionError("division by zero"), None, ExitCode.InternalError),
    ],
)
def test_other_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, module: str | None, code: ExitCode) -> None:
    if module:
        monkeypatch.setattr(OutOfMemoryError, "__module__", module)
    assert fails_with(error).code is code


def test_a_bug_names_its_place_and_not_its_words() -> None:
    outcome = fails_with(ValueError(f"token {SECRET}")).outcome
    assert outcome.reason == "InternalError"
    assert "ValueError at test_main.py:" in outcome.message
    assert SECRET not in outcome.model_dump_json()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ("{", "file: Invalid JSON"),
        ('{"version": 1}', "identity: Field required"),
        (json.dumps(run_file().wire() | {"lora": {"r": 0}}), "lora.r: Input should be greater than or equal to 1"),
        (json.dumps(run_file().wire() | {"loras": {}}), "older than the operator and does not know loras."),
    ],
)
def test_a_run_file_that_is_not_valid(tmp_path: Path, contents: str, words: str) -> None:
    (tmp_path / "run.json").write_text(contents)
    with pytest.raises(TrainerError) as caught:
        entry.read_run(tmp_path / "run.json")
    assert caught.value.code is ExitCode.ConfigInvalid
    assert words in caught.value.message


def test_a_run_file_that_somebody_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text(run_file().text())
    monkeypatch.setenv(RUN_FILE_SHA256_VARIABLE, hashlib.sha256(path.read_bytes()).hexdigest())
    assert entry.read_run(path) == run_file()
    path.write_text(path.read_text() + "\n")
    with pytest.raises(TrainerError, match="somebody replaced the ConfigMap") as caught:
        entry.read_run(path)
    assert caught.value.code is ExitCode.ConfigInvalid


REQUIRED = {
    "rank": ("--run=r", "--scratch=s", "--base=b", "--termination-log=t"),
    "verify": ("--artifact=s3://a/b",),
    "export": ("--adapter=a", "--base=b", "--formats=f", "--folder=f"),
}
"""Options that a stage does not start without."""


def command(tmp_path: Path, stage: str = "prepare") -> list[str]:
    options = {"--run": "run.json", "--scratch": "scratch", "--termination-log": "termination-log"}
    paths = [part for name, file in options.items() for part in (name, str(tmp_path / file))]
    return [sys.executable, "-m", "lora_trainer", stage, *paths, "--port", "0"]


def test_a_missing_run_file_ends_with_a_last_word(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == ExitCode.ConfigInvalid
    outcome = decode_outcome((tmp_path / "termination-log").read_text())
    assert outcome
    assert outcome.reason == "ConfigInvalid"
    assert [json.loads(line)["level"] for line in done.stdout.splitlines()] == ["error"]


@pytest.mark.parametrize("stage", ["prepare", "train", "rank", "verify", "export"])
def test_every_process_hides_its_memory_and_environment(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setattr(entry, "hide_from_others", lambda: (_ for _ in ()).throw(InterruptedError("hidden")))
    with pytest.raises(InterruptedError):
        entry.main([stage, *REQUIRED.get(stage, ())])


def test_a_termination_log_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    arguments = [*command(tmp_path), "--termination-log", str(tmp_path / "none/log")]
    done = subprocess.run(arguments, capture_output=True, check=False, timeout=60)
    assert done.returncode == ExitCode.ConfigInvalid


def test_prepare_stops_at_once_when_asked_to(tmp_path: Path) -> None:
    """Even in the middle of a request to a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = run_file(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        (tmp_path / "run.json").write_text(json.dumps(run.wire()))
        environment = os.environ | {"AWS_ACCESS_KEY_ID": "an-access-key", "AWS_SECRET_ACCESS_KEY": SECRET}
        pod = subprocess.Popen(command(tmp_path), env=environment, stdout=subprocess.PIPE, text=True)
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
            pod.send_signal(signal.SIGTERM)
            output, _ = pod.communicate(timeout=5)
            connection.close()
        finally:
            pod.kill()
    assert pod.returncode == ExitCode.Interrupted
    outcome = decode_outcome((tmp_path / "termination-log").read_text())
    assert outcome
    assert outcome.reason == "Interrupted"
    assert SECRET not in output
