"""The trainer's own processes, started as its pods start them, for tests that stop, kill and resume them."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Outcome, TrainResult, decode_outcome
from lora_trainer.contract.progress import Progress
from lora_trainer.contract.run import AcceleratorKind, RunFile

from tests.support import trainer_process
from tests.support.fork_server import Kind

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

    def __init__(
        self, run: RunFile, *, folder: Path, port: int, options: tuple[str, ...] = (), fresh: bool = False
    ) -> None:
        """`folder` must not exist yet. Credentials come from the environment. `fresh` asks for a process that imports
        its libraries itself, as a pod's does."""
        self._folder, self._port = folder, port
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        run_file = folder / "run.json"
        run_file.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
        arguments = ["train", "--run", run_file, "--scratch", scratch, "--port", str(port)]
        arguments += ["--termination-log", folder / "last-word", *options]
        on_cpu = run.accelerator.kind == AcceleratorKind.CPU
        kind = Kind(run.training.method) if on_cpu and not fresh else None
        with (folder / "log").open("wb") as log:
            self._process = trainer_process.start(
                arguments, kind=kind, folder=scratch, environment=os.environ, stdout=log, stderr=log
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
