"""Watches one training process of benchmarks/gpu.py: the steps in its log, and the GPU's memory and energy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

GIB = 2**30
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which steps of a run are timed."""

    warm_up: int = 5
    """Steps that are not: kernels are compiled in them."""
    most: int = 10
    """Timed steps that are enough."""
    fewest: int = 4
    """Timed steps that are enough once `seconds` have passed."""
    seconds: float = 20

    @property
    def steps(self) -> int:
        """Steps that a run must be able to take."""
        return self.warm_up + self.most

    def full(self, steps: Sequence[Step]) -> bool:
        """Whether enough steps were timed."""
        timed = len(steps) - self.warm_up
        if timed < self.fewest:
            return False
        return timed >= self.most or steps[-1].time - steps[self.warm_up - 1].time >= self.seconds


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, as the log tells it."""

    time: float
    """When it was done, in seconds of the epoch."""
    tokens: int
    """Non-padding tokens up to its end."""
    loss: float


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a process did until it was stopped."""

    began: float
    """When it was started, in seconds of the epoch."""
    steps: Sequence[Step]
    log: Sequence[Mapping[str, Any]]
    """All lines of its log that are JSON."""
    peak_gib: float | None
    """Most memory in use on the card from the first step on, less the least; None without NVML."""
    joules: float | None
    """Energy that the card took during the timed steps; None without NVML."""


@dataclass(kw_only=True)
class Meter:
    """Samples memory and energy of the first GPU while used as a context manager."""

    times: list[float] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    millijoules: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        try:
            import pynvml  # pyright: ignore[reportMissingImports] - there is none without a GPU

            pynvml.nvmlInit()
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:  # a machine without a driver, or without the library: figures are left out
            return
        while not self._stop.wait(SAMPLE_SECONDS):
            with suppress(pynvml.NVMLError):
                energy = int(pynvml.nvmlDeviceGetTotalEnergyConsumption(card))
                used = int(pynvml.nvmlDeviceGetMemoryInfo(card).used)
                self.times.append(time.time())
                self.used.append(used)
                self.millijoules.append(energy)

    def peak_gib(self, start: float) -> float | None:
        """Most memory in use from a time on, less the least ever: at first, a process killed before may hold some."""
        later = self.used[bisect_left(self.times, start) :]
        return (max(later) - min(self.used)) / GIB if later else None

    def joules(self, start: float, end: float) -> float | None:
        """Energy between two times."""
        first, last = (min(bisect_left(self.times, at), len(self.times) - 1) for at in (start, end))
        return (self.millijoules[last] - self.millijoules[first]) / 1000 if self.times else None


def watch(command: Sequence[str | Path], *, folder: Path, window: Window, limit: float) -> Watched:
    """Run a command in `folder` until enough of its steps were timed, then kill it.

    Raises RuntimeError with the end of its log where it ends before, or takes longer than `limit` seconds.
    """
    path = folder / "log"
    with path.open("wb") as log, Meter() as meter:
        began = time.time()
        process = subprocess.Popen(
            [*command],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            steps = _follow(process, path, window=window, deadline=began + limit)
        finally:
            # Also the workers that it started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    timed = steps[window.warm_up - 1].time, steps[-1].time
    return Watched(
        began=began,
        steps=steps,
        log=read_log(path),
        peak_gib=meter.peak_gib(steps[0].time),
        joules=meter.joules(*timed),
    )


def _follow(process: subprocess.Popen[bytes], path: Path, *, window: Window, deadline: float) -> list[Step]:
    while True:
        ended = process.poll() is not None
        if window.full(steps := read_steps(path)):
            return steps
        if ended or time.time() > deadline:
            what = f"ended with {process.returncode}" if ended else "took too long"
            raise RuntimeError(f"{what} after {len(steps)} steps:\n{path.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that are whole JSON objects."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            if isinstance(entry := json.loads(line), dict):
                found.append(entry)
    return found


def read_steps(path: Path) -> list[Step]:
    """The steps in a log."""
    return [
        Step(
            time=datetime.fromisoformat(entry["time"]).timestamp(),
            tokens=int(entry["num_input_tokens_seen"]),
            loss=float(entry["loss"]),
        )
        for entry in read_log(path)
        if entry.get("message") == "Step"
    ]
