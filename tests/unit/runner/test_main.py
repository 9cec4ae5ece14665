"""The whole program, with another make in place of make."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner import results, selection
from tests.runner.selection import Selection
from tests.runner.suites import REPOSITORY

MAKE = """#!/bin/sh
echo "$2" >> "$RAN"
[ "$2" != check ]
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the parts that were run."""
    (tmp_path / "make").write_text(MAKE)
    (tmp_path / "make").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.setenv(results.VARIABLE, str(tmp_path / "results"))
    monkeypatch.delenv(selection.VARIABLE, raising=False)
    return tmp_path / "ran"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.runner", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)


def test_phases_come_one_after_another(ran: Path) -> None:
    done = run("test-unit,test-component", "then", "test-trainer")
    assert done.returncode == 0
    assert ran.read_text().split() == ["test-unit", "test-component", "test-trainer"]
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed"


def test_after_a_failure_no_phase_begins(ran: Path) -> None:
    done = run("check,test-unit", "test-component", "then", "test-trainer")
    assert done.returncode == 1
    assert sorted(ran.read_text().split()) == ["check", "test-component"]
    lines = done.stdout.splitlines()
    assert "Not run: test-unit, test-trainer" in lines
    assert lines[-1] == "0 passed, 1 failed"


def test_what_a_change_cannot_reach_is_not_run(ran: Path, tmp_path: Path) -> None:
    file = tmp_path / "selection.json"
    selection.write(Selection(targets=["test-unit"], suites={"unit": ["tests/unit/test_spdx.py"]}), file)
    done = run("--selection", str(file), "check,test-unit", "then", "test-trainer")
    assert done.returncode == 0
    assert ran.read_text().split() == ["test-unit"]
    assert "check is not run: the change cannot reach it" in done.stdout
    assert "test-trainer is not run: the change cannot reach it" in done.stdout
