"""Runs a user's reward function in its own process, with a time limit for each call and without credentials.

The process keeps the function loaded between calls. Because it is separate, the user's code can neither end nor block
the trainer, and finds no credentials in its environment. It is not a sandbox against malicious code.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.rewards import PythonReward
from lora_trainer.errors import TrainerError
from lora_trainer.rewards import child

PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "OMP_NUM_THREADS")
"""Environment variables that the process gets; no others."""
START_SECONDS = 60
KILL_SECONDS = 5
CHUNK = 65_536


class UserFunction:
    """One function. Starts its process when it is first needed. Raises TrainerError RewardFailed for all that fails."""

    def __init__(self, spec: PythonReward, *, source: Path, field: str) -> None:
        """`source` is the file with the code, `field` the reward's place in the spec, for messages."""
        self._spec = spec
        self._source = source
        self._field = field
        self._process: subprocess.Popen[bytes] | None = None

    def load(self) -> None:
        """Start the process and load the function, if that has not been done."""
        if self._process is None:
            command = [sys.executable, "-I", child.__file__, str(self._source), self._spec.function]
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
            self._answer(START_SECONDS, what="was not loaded")

    def __call__(self, *, count: int, **arguments: Any) -> list[float]:
        """The rewards of `count` answers. `arguments` are what the function is called with; JSON must carry them."""
        self.load()
        assert self._process
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._ended()
        reply = self._answer(self._spec.timeout_seconds, what="did not return")
        return self._checked(reply["rewards"], count)

    def close(self) -> None:
        """End the process, and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(KILL_SECONDS)

    def _answer(self, seconds: int, *, what: str) -> Mapping[str, Any]:
        """The next line that the process writes. A killed or silent process and an error of the function are raised."""
        assert self._process
        assert self._process.stdout
        line, output = b"", self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                self._fail(f"{what} within {seconds} s", "Make it faster, or raise timeoutSeconds.")
            part = os.read(output, CHUNK)
            if not part:
                self._ended()
            line += part
        reply = json.loads(line)
        if "error" in reply:
            self.close()
            self._fail(f"failed with {reply['error']}: {reply['words']}", place=reply)
        return reply

    def _ended(self) -> NoReturn:
        assert self._process
        code = self._process.wait(KILL_SECONDS)
        self.close()
        how = f"was killed by signal {-code}" if code < 0 else f"ended its process with exit code {code}"
        self._fail(
            how, "Return one number per completion. Memory that the function uses counts towards the pod's limit."
        )

    def _checked(self, rewards: Sequence[Any], count: int) -> list[float]:
        if len(rewards) != count:
            self._fail(f"returned {len(rewards)} rewards for {count} completions")
        for index, reward in enumerate(rewards):
            if not isinstance(reward, int | float) or not math.isfinite(reward):
                self._fail(f"returned {reward!r:.60} instead of a number for completion {index}")
        return [float(reward) for reward in rewards]

    def _fail(self, what: str, remedy: str | None = None, *, place: Mapping[str, Any] | None = None) -> NoReturn:
        reference = self._spec.config_map_ref
        line = f" line {place['line']}" if place and "line" in place else ""
        inside = f" (in {place['function']})" if place and place.get("function") not in (None, "<module>") else ""
        raise TrainerError(
            ExitCode.RewardFailed,
            f"The reward function {self._spec.function} in {reference.name}/{reference.key}{line}{inside} {what}.",
            remedy or f"Correct it in the ConfigMap and apply the LoraFineTune under a new name ({self._field}).",
        )
