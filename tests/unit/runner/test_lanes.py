"""Lanes of real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runner import lanes
from tests.runner.results import Ran
from tests.runner.suites import REPOSITORY

MEETING = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
deadline = time.monotonic() + 60
while not other.exists():
    assert time.monotonic() < deadline, "nobody came"
    time.sleep(0.01)
"""
ENDING = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
try:
    (folder / "begun").touch()
    time.sleep(60)
finally:
    time.sleep(0.3)
    (folder / "taken-down").touch()
"""
RUNNING = """
import pathlib, sys
from tests.runner import lanes
commands = {"long": [sys.executable, "-c", sys.argv[1], sys.argv[2]], "next": ["touch", sys.argv[2] + "/next"]}
print(*[(ran.name, ran.code) for ran in lanes.run([["long", "next"]], command=commands.get, logs=pathlib.Path())])
"""


def run(*names: list[str], commands: dict[str, list[str]], logs: Path) -> dict[str, int]:
    """Lanes of these parts: what was run, and how each part ended."""
    ended = lanes.run(names, command=lambda part: commands[part], logs=logs)
    assert all(isinstance(ran, Ran) and ran.seconds >= 0 for ran in ended)
    return {ran.name: ran.code for ran in ended}


def test_a_failure_ends_its_lane_and_no_other(tmp_path: Path) -> None:
    commands = {"good": ["true"], "bad": ["sh", "-c", "exit 3"], "after": ["true"], "other": ["true"]}
    ended = run(["good", "bad", "after"], ["other"], commands=commands, logs=tmp_path)
    assert ended == {"good": 0, "bad": 3, "other": 0}


def test_lanes_run_side_by_side(tmp_path: Path) -> None:
    def meet(mine: str, other: str) -> list[str]:
        return [sys.executable, "-c", MEETING, str(tmp_path / mine), str(tmp_path / other)]

    assert run(["a"], ["b"], commands={"a": meet("a", "b"), "b": meet("b", "a")}, logs=tmp_path) == {"a": 0, "b": 0}


def test_the_parts_of_a_lane_run_one_after_another(tmp_path: Path) -> None:
    commands = {"first": ["sh", "-c", f"sleep 0.2; touch {tmp_path}/it"], "second": ["test", "-e", f"{tmp_path}/it"]}
    assert run(["first", "second"], commands=commands, logs=tmp_path) == {"first": 0, "second": 0}


def test_other_lanes_print_when_their_parts_have_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    commands = {"live": ["sh", "-c", "echo seen at once; sleep 0.5"], "beside": ["sh", "-c", "echo out; echo err >&2"]}
    run(["live"], ["beside"], commands=commands, logs=tmp_path)
    printed = capfd.readouterr().out
    assert "seen at once" in printed
    assert "out\nerr\n=== beside is done" in printed
    assert (tmp_path / "beside.log").read_text() == "out\nerr\n"
    assert not (tmp_path / "live.log").exists()


@pytest.mark.parametrize("start", ["SIG_IGN", "default_int_handler"], ids=["in the background", "in front"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_children_and_waits_for_them(tmp_path: Path, number: signal.Signals, start: str) -> None:
    program = f"import signal; signal.signal(signal.SIGINT, signal.{start}); "
    program += "signal.signal(signal.SIGTERM, signal.default_int_handler)" + RUNNING
    command = [sys.executable, "-c", program, ENDING, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as runner:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline, "nothing began"
            time.sleep(0.01)
        os.kill(runner.pid, number)
        printed, _ = runner.communicate(timeout=60)
    assert printed.splitlines()[-1] == f"('long', {lanes.INTERRUPTED})"
    assert (tmp_path / "taken-down").exists()
    assert not (tmp_path / "next").exists()
