"""Starting, finding and ending long-running processes by record files. Knows nothing about what they do.

A record holds the pid and the process's start time, so that a recycled pid is never taken for ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .components import Component

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One started process. `fingerprint` tells whether it runs what its component asks for today."""

    pid: int
    start_ticks: int
    fingerprint: str


def fingerprint(component: Component) -> str:
    """Changes when the command line, environment or a configuration file changes."""
    digest = hashlib.sha256(json.dumps([component.argv, dict(component.environment)]).encode())
    for file in component.configuration:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def start(component: Component, *, records: Path, logs: Path) -> Record:
    """Start the process detached from this one, its output appended to `<logs>/<name>.log`."""
    logs.mkdir(parents=True, exist_ok=True)
    records.mkdir(parents=True, exist_ok=True)
    with (logs / f"{component.name}.log").open("ab") as log:
        process = subprocess.Popen(
            component.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **component.environment},
            cwd=logs,
            start_new_session=True,
        )
    record = Record(pid=process.pid, start_ticks=_start_ticks(process.pid) or 0, fingerprint=fingerprint(component))
    (records / f"{component.name}.json").write_text(json.dumps(asdict(record)))
    return record


def running(name: str, *, records: Path) -> Record | None:
    """The record of a process that lives, or None."""
    file = records / f"{name}.json"
    try:
        record = Record(**json.loads(file.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
    return record if _start_ticks(record.pid) == record.start_ticks else None


def stop(name: str, *, records: Path, patience: float = 20) -> bool:
    """SIGTERM, wait up to `patience` seconds, SIGKILL. True when there was something to stop."""
    record = running(name, records=records)
    if record:
        end([record.pid], patience=patience)
    (records / f"{name}.json").unlink(missing_ok=True)
    return record is not None


def end(pids: Iterable[int], *, patience: float) -> None:
    """SIGTERM all, wait until they are gone, SIGKILL those that outlive `patience` seconds."""
    alive = set(pids)
    for pid in alive:
        _send(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    killed = False
    while alive := {pid for pid in alive if _start_ticks(pid) is not None}:
        if time.monotonic() > deadline and not killed:
            killed = True
            for pid in alive:
                _send(pid, signal.SIGKILL)
        elif time.monotonic() > deadline + 10:
            return  # stuck in the kernel; whoever needs its port or mount will say so
        time.sleep(0.05)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL at once."""
    end(pids, patience=0)


def find(*, programs: Sequence[str], mention: str) -> list[int]:
    """Processes whose program's name is in `programs` and whose arguments mention the text: ours without a record."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(argv[0]).name in programs and any(mention in word for word in argv[1:]):
                    found.append(int(entry.name))
    return found


def descendants(pids: Iterable[int]) -> set[int]:
    """All children of the processes, their children and so on; without the processes themselves."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = list(pids)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on: [state, ppid, ...]; None when there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the program's name before it may hold spaces and brackets


def _start_ticks(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; None for the dead, zombies included."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # collects it when it is a dead child of this very process
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])
