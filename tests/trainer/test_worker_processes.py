"""Processes that make batches beside a GPU end with the trainer, which has SIGTERM blocked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

MORE_THAN_ENOUGH_SECONDS = 60
STAGE_WITH_WORKERS = """
import sys
from lora_trainer import __main__ as trainer
from torch.utils.data import DataLoader

def stage(arguments, server):
    global batches
    batches = iter(DataLoader(range(100), num_workers=2, persistent_workers=True))
    next(batches)

trainer._run_stage = stage
sys.exit(trainer.main(sys.argv[1:]))
"""


def test_a_stage_that_leaves_workers_behind_ends(tmp_path: Path) -> None:
    arguments = ["train", "--run", tmp_path / "run.json", "--scratch", tmp_path, "--port", str(free_port())]
    command = [sys.executable, "-c", STAGE_WITH_WORKERS, *arguments, "--termination-log", tmp_path / "last-word"]
    assert subprocess.run(command, timeout=MORE_THAN_ENOUGH_SECONDS, check=False).returncode == 0
