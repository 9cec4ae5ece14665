"""A stage of the trainer in a process of its own, as its pod runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lora_trainer.contract.outcome import Outcome, decode_outcome

from tests.support.object_store import ObjectStore

MODULE = ("-m", "lora_trainer")
SECONDS = 120


def run_stage(
    *arguments: str,
    folder: Path,
    store: ObjectStore,
    environment: dict[str, str],
    python: str = sys.executable,
    entry: tuple[str, ...] = MODULE,
) -> tuple[int, Outcome, str]:
    """Run the stage with the store's credentials: exit code, termination message and log."""
    message = folder / "termination-log"
    done = subprocess.run(
        [python, *entry, *arguments, "--termination-log", str(message), "--port", "0"],
        env=os.environ | store.environment | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert "Traceback" not in done.stderr, done.stderr
    outcome = decode_outcome(message.read_text())
    assert outcome
    return done.returncode, outcome, done.stdout
