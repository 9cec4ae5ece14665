"""How many cores of the machine are busy, from /proc/stat; nothing where there is none."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
IDLE, IOWAIT, STEAL = 3, 4, 7
"""Columns of ticks in which no core worked for this machine."""


def busy_ticks(stat: str) -> int:
    """Ticks that all cores together have worked. Guests' time is part of user's, which stands before it."""
    columns = [int(column) for column in stat.splitlines()[0].split()[1:9]]
    return sum(ticks for index, ticks in enumerate(columns) if index not in (IDLE, IOWAIT, STEAL))


@dataclass(frozen=True, kw_only=True)
class Took:
    """What something took."""

    seconds: float
    cores: float | None
    """Busy on average, whoever kept them so."""


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began, self._busy = time.monotonic(), _read()

    def took(self) -> Took:
        """From then to now."""
        seconds, busy = time.monotonic() - self._began, _read()
        if busy is None or self._busy is None or not seconds:
            return Took(seconds=seconds, cores=None)
        return Took(seconds=seconds, cores=(busy - self._busy) / os.sysconf("SC_CLK_TCK") / seconds)


def _read() -> int | None:
    try:
        return busy_ticks(STAT.read_text())
    except OSError:
        return None
