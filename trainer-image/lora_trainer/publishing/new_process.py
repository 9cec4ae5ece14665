"""Runs a stage of the trainer in a new process, so that its result does not depend on this one's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TypeVar

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import decode_outcome
from lora_trainer.contract.wire import WireModel
from lora_trainer.errors import TrainerError

M = TypeVar("M", bound=WireModel)


def run_in_new_process(stage: str, options: Mapping[str, object], *, result: type[M]) -> M:
    """The stage's result, from the last line it prints. Raises that process's TrainerError.

    Options that are None are left out.
    """
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "lora_trainer", stage, *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    last_line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == ExitCode.Succeeded:
        return result.model_validate_json(last_line)
    outcome = decode_outcome(last_line)
    if outcome is None or done.returncode not in set(ExitCode):
        raise TrainerError(
            ExitCode.InternalError,
            f"The stage {stage} exited with code {done.returncode} and without a result.",
            "Check the pod's log.",
        )
    raise TrainerError(ExitCode(done.returncode), outcome.message, outcome.remedy)
