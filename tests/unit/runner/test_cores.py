"""How many cores are busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner import cores
from tests.runner.cores import Stopwatch, busy_ticks

STAT = "cpu  100 20 30 4000 500 6 7 800 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 12\n"


def test_waiting_is_not_busy() -> None:
    assert busy_ticks(STAT) == 100 + 20 + 30 + 6 + 7


def test_a_stopwatch_divides_the_work_by_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, now = tmp_path / "stat", [100.0]
    monkeypatch.setattr(cores, "STAT", stat)
    monkeypatch.setattr(cores.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cores.os, "sysconf", lambda _: 100)
    stat.write_text("cpu 1000 0 0 0 0 0 0 0\n")
    watch = Stopwatch()
    stat.write_text("cpu 2500 0 0 9000 0 0 0 0\n")
    now[0] = 110.0
    assert (watch.took().seconds, watch.took().cores) == (10.0, 1.5)


def test_where_nothing_tells_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert Stopwatch().took().cores is None
