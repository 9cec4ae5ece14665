"""What the process of a pod of this machine took, as the kernel counts it."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Processor time in seconds, and resident memory in MiB: now, and at its highest."""

    cpu_seconds: float
    memory_mib: float
    peak_mib: float


def pid_of_pod(uid: str) -> int:
    """The process that a pod of one container runs. Raises LookupError while there is none."""
    found = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal()
        and uid in _read(entry / "cgroup")
        and not _read(entry / "cmdline").startswith("/pause")
    ]
    if not found:
        raise LookupError(f"pod {uid} has no process yet")
    return min(found)


def usage(pid: int) -> Usage:
    """What the process took until now, its threads included."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        memory_mib=_mib(status, "VmRSS"),
        peak_mib=_mib(status, "VmHWM"),
    )


def age_seconds(pid: int) -> float:
    """How long ago the process started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS


def _mib(status: str, name: str) -> float:
    match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    if match is None:
        raise LookupError(f"/proc/<pid>/status has no {name}")
    return int(match[1]) / 1024


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""  # it ended meanwhile
