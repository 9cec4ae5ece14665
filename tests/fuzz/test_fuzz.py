"""A short run; `make fuzz` is the long one."""

from __future__ import annotations

import subprocess
import sys

from tests.demo.environment import REPOSITORY

COUNT = 200


def test_random_objects_end_as_they_may() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--count", str(COUNT)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNT} objects" in done.stdout
