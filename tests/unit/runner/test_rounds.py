"""Rounds of a make target: what is recorded of them, and told at the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runner import rounds
from tests.runner.rounds import HEADING, Round


def a_round(seconds: float, *failed: str, code: int = 0) -> Round:
    return Round(
        when="2026-01-02T03:04Z", commit="abc1234", target="test-x", busy=1, seconds=seconds, code=code, failed=failed
    )


def test_a_round_is_a_line_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "rounds.tsv"
    rounds.append(a_round(12.3), table)
    rounds.append(a_round(45.6, "tests/a.py::test_b", "tests/c.py::test_d", code=2), table)
    assert table.read_text() == HEADING + (
        "2026-01-02T03:04Z\tabc1234\ttest-x\t1\t12\t0\n"
        "2026-01-02T03:04Z\tabc1234\ttest-x\t1\t46\t2\ttests/a.py::test_b tests/c.py::test_d\n"
    )


def test_the_tests_that_fail_most_come_first() -> None:
    played = [a_round(10), a_round(30, "rare", "frequent", code=2), a_round(20, "frequent", code=2)]
    assert rounds.told(played).splitlines() == [
        "1 of 3 rounds of test-x passed; seconds: 10 at least, 20 in the middle, 30 at most",
        "  failed 2 times: frequent",
        "  failed 1 times: rare",
    ]


def test_every_round_is_played_and_recorded_also_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, recorded = tmp_path / "log", list[Round]()
    monkeypatch.setattr(rounds, "make", lambda target: ["bash", "-c", f"echo {target} >> {log}; [ {target} = before ]"])
    monkeypatch.setattr(rounds, "append", recorded.append)
    assert rounds.main(["fails", "--times", "2", "--before", "before"]) == 1
    assert log.read_text().split() == ["before", "fails"] * 2
    assert [(played.target, played.code) for played in recorded] == [("fails", 1)] * 2


def test_processors_are_busy_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SPIN", "import time; time.sleep(60)")
    with rounds.busy(2):
        spinning = children()
    assert len(spinning) == 2
    assert not spinning & children()


def children() -> set[str]:
    """Processes that this one has started."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
