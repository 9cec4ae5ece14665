"""The kubectl commands of documents, against a real API server."""

from __future__ import annotations

import subprocess
import sys

from tests.demo.environment import REPOSITORY
from tests.kubectl.documented import DOCUMENTED


def test_every_command_does_what_its_document_says() -> None:
    command = [sys.executable, "-m", "tests.kubectl"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.removeprefix("works: ") for line in done.stdout.splitlines()] == [each.command for each in DOCUMENTED]
