"""The trainer's own processes, started as its pods start them, for tests that stop, kill and resume them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Outcome, TrainResult, decode_outcome
from lora_trainer.contract.progress import Progress
from lora_trainer.contract.run import RunFile

END_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    outcome: Outcome | None
    log: str

    @property
    def result(self) -> TrainResult:
        """What a training reports that went well; fails with its log where it did not."""
        assert self.code == ExitCode.Succeeded, self.log
        assert self.outcome
        assert isinstance(self.outcome.result, TrainResult)
        return self.outcome.result

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What the log says of each step."""
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["message"] == "Step"]


class Attempt:
    """One `python -m lora_trainer train` with a scratch folder of its own; killed where the block is left early."""

    def __init__(self, run: RunFile, *, folder: Path, port: int, options: tuple[str, ...] = ()) -> None:
        """`folder` must not exist yet. Credentials come from the environment."""
        self._folder, self._port = folder, port
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        run_file = folder / "run.json"
        run_file.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
        command = [sys.executable, "-m", "lora_trainer", "train", "--run", run_file, "--scratch", scratch]
        command += ["--port", str(port), "--termination-log", folder / "last-word", *options]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=scratch, env=dict(os.environ)
            )

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until(self, reached: Callable[[Progress], bool]) -> Progress:
        """Poll /progress until `reached`; fails where the process ends before."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"ended with {self._process.returncode} before:\n{self._log()}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/progress", timeout=5) as answer:
                    progress = Progress.model_validate(json.load(answer))
            except OSError:
                progress = None
            if progress and reached(progress):
                return progress
            time.sleep(0.1)
        raise AssertionError(f"not reached within {END_SECONDS} s:\n{self._log()}")

    def signal(self, number: signal.Signals) -> Ended:
        """Send a signal and wait for the ending."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> Ended:
        """Wait for the ending."""
        code = self._process.wait(END_SECONDS)
        word = self._folder / "last-word"
        outcome = decode_outcome(word.read_text()) if word.exists() else None
        return Ended(code=code, outcome=outcome, log=self._log())

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")
