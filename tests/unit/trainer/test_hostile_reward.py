"""What a hostile reward function gets at: no credentials, no result and no checkpoint."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lora_trainer.contract.credentials import SECRET_VARIABLES
from lora_trainer.rewards.panel import code_file

from tests.support import hostile_trainer

REWARD = Path(hostile_trainer.__file__).with_name("hostile_reward.txt")
NEEDS_LANDLOCK = {
    "the mounted token",
    "the termination message",
    "a new termination message",
    "a checkpoint",
    "a checkpoint by truncation",
    "a checkpoint by deletion",
    "its own code",
    "a signal",
}
"""What a kernel without Landlock does not stop; docs/reference/security.md says so."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """What a pod has, as its ordinary user owns it."""
    folder = Path(tempfile.mkdtemp())
    canary = f"{hostile_trainer.CANARY}{secrets.token_hex(8)}"
    files = {"token": canary, "termination-log": "", "checkpoint": "weights"}
    (folder / "tmp").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    code = REWARD.read_text().replace("@FOLDER@", str(folder))
    (folder / code_file(0)).write_text(code)
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, hostile_trainer.USER, hostile_trainer.USER)
    yield folder
    shutil.rmtree(folder)


def attacked(folder: Path, *options: str) -> tuple[set[str], str]:
    """What the function got, and all that the trainer printed."""
    canaries = {name: f"{hostile_trainer.CANARY}{secrets.token_hex(8)}" for name in SECRET_VARIABLES}
    done = subprocess.run(
        [sys.executable, hostile_trainer.__file__, str(folder), *options],
        env=os.environ | canaries,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "RewardFailed" in done.stdout, done.stdout + done.stderr
    shown = done.stdout + done.stderr
    assert hostile_trainer.CANARY not in shown
    got = next(line for line in done.stderr.splitlines() if line.startswith("got "))
    return {*json.loads(got.removeprefix("got "))}, shown


def test_a_hostile_reward_gets_nothing(folder: Path) -> None:
    got, _ = attacked(folder)
    assert got == set()
    assert (folder / "checkpoint").read_text() == "weights"
    assert (folder / "termination-log").read_text() == ""
    assert list((folder / "tmp").iterdir()) == [], "nothing of it stays"


def test_on_an_old_kernel_it_gets_no_credentials_of_the_trainer(folder: Path) -> None:
    got, shown = attacked(folder, "--old-kernel")
    assert got == NEEDS_LANDLOCK
    assert "has no Landlock" in shown
