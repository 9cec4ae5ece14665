"""Runs a user's reward function in its own process, with a time limit for each call and without credentials.

The process keeps the function loaded between calls. Because it is separate, the user's code can neither end nor block
the trainer. It confines itself (confinement.py) before it loads the code, and the trainer hides its own memory and
environment. docs/reference/security.md says what malicious code can still do.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.rewards import PythonReward
from lora_trainer.errors import TrainerError
from lora_trainer.redaction import redact
from lora_trainer.rewards import child

PASSED_ON = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")
"""Environment variables that the process gets as they are."""
START_SECONDS = 60
KILL_SECONDS = 5
CHUNK = 65_536

log = logging.getLogger(__name__)


class UserFunction:
    """One function. Starts its process when it is first needed. Raises TrainerError RewardFailed for all that fails."""

    def __init__(self, spec: PythonReward, *, source: Path, field: str) -> None:
        """`source` is the file with the code, `field` the reward's place in the spec, for messages."""
        self._spec = spec
        self._source = source
        self._field = field
        self._process: subprocess.Popen[bytes] | None = None
        self._log: threading.Thread | None = None
        """Passes on what the function prints."""
        self._folder: Path | None = None
        """The only folder that the process may write into."""

    def load(self) -> None:
        """Start the process and load the function, if that has not been done."""
        if self._process is None:
            self._folder = Path(tempfile.mkdtemp(prefix="reward-"))
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-I", child.__file__, self._source, self._spec.function, self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._folder,
                env=environment | {"HOME": str(self._folder), "TMPDIR": str(self._folder)},
                start_new_session=True,
            )
            self._log = threading.Thread(target=_pass_on, args=(self._process.stderr,), name="reward-log", daemon=True)
            self._log.start()
            if not self._answer(START_SECONDS, what="was not loaded")["confined"]:
                log.warning("This node's kernel has no Landlock: the reward function can write into the pod's folders")

    def __call__(self, *, count: int, **arguments: Any) -> list[float | None]:
        """The rewards of `count` answers, None where the function has none to give. `arguments` are what the function
        is called with; JSON must carry them."""
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
        if self._log:
            # What the function printed last says why it failed. A process that has left its session may keep the pipe.
            self._log.join(KILL_SECONDS)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

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

    def _checked(self, rewards: Sequence[Any], count: int) -> list[float | None]:
        if len(rewards) != count:
            self._fail(f"returned {len(rewards)} rewards for {count} completions")
        for index, reward in enumerate(rewards):
            if reward is not None and not (isinstance(reward, int | float) and math.isfinite(reward)):
                self._fail(f"returned {reward!r:.60} instead of a number or None for completion {index}")
        return [None if reward is None else float(reward) for reward in rewards]

    def _fail(self, what: str, remedy: str | None = None, *, place: Mapping[str, Any] | None = None) -> NoReturn:
        reference = self._spec.config_map_ref
        line = f" line {place['line']}" if place and "line" in place else ""
        inside = f" (in {place['function']})" if place and place.get("function") not in (None, "<module>") else ""
        raise TrainerError(
            ExitCode.RewardFailed,
            f"The reward function {self._spec.function} in {reference.name}/{reference.key}{line}{inside} {what}.",
            remedy or f"Correct it in the ConfigMap and apply the LoraFineTune under a new name ({self._field}).",
        )


def _pass_on(printed: IO[bytes]) -> None:
    """Write what the function prints to the log, without the values of credentials."""
    with printed:
        while line := printed.readline(CHUNK):
            sys.stderr.write(redact(line.decode(errors="replace")))
            sys.stderr.flush()
