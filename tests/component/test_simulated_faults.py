"""A short run of the fault simulation (tests/faults); `make test-faults` does it at length."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(1800)
"""These compute, and do so for as long as the processors are busy with other things."""


def simulate(*arguments: str) -> str:
    """What the simulation prints. In a process of its own, as its seed fixes hashes too."""
    command = [sys.executable, "-m", "tests.faults", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def test_nothing_is_lost_and_nothing_done_twice() -> None:
    told = simulate("--quick", "--seed", "short", "--faults", "100")
    print(told)
    deaths, random = (int(number) for number in re.findall(r"^(\d+) (?:deaths|random faults)", told, re.M))
    assert deaths >= 50
    assert random >= 100
    assert "no violation" in told


def test_the_same_seed_does_the_same() -> None:
    first, second = (re.findall(r"history (\w{64})", simulate("--quick", "--only", "twice")) for _ in range(2))
    assert len(first) == 1
    assert first == second
