"""Runs commands in lanes. A lane is a row of parts, one after another; lanes run side by side.

The first lane prints as it goes; what the others print goes to files, each of which is printed when its part has ended.
A part that fails ends its lane, and the other lanes go on. An interrupt ends all children and waits for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from pathlib import Path

from tests.runner.cores import Stopwatch
from tests.runner.results import Ran

GRACE_SECONDS = 60
"""What children have after an interrupt to take down what they put up; a second interrupt ends them at once."""
INTERRUPTED = 130

Lane = Sequence[str]
"""Names of parts."""


class Children:
    """The processes that run. Each leads a group of its own, so that its own children get what is sent to it."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._ending = self._killed = False

    def run(self, command: Sequence[str], *, log: Path | None) -> int:
        """Exit code of a command that prints to the file, or where we do."""
        with log.open("wb") if log else nullcontext() as output:
            with self._lock:
                if self._ending:
                    return INTERRUPTED
                child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
                )
                self._groups.add(child.pid)
            code = child.wait()
        # make ends at once, and pytest after it has taken its fixtures down.
        while self._ending and not self._killed and _is_there(child.pid):
            time.sleep(0.1)
        with self._lock:
            self._groups.discard(child.pid)
        return INTERRUPTED if self._ending else code

    def end(self, number: signal.Signals) -> None:
        """Send a signal to all, and start no more."""
        with self._lock:
            self._ending, self._killed = True, number is signal.SIGKILL
            for group in self._groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run(lanes: Sequence[Lane], *, command: Callable[[str], Sequence[str]], logs: Path) -> list[Ran]:
    """Run them all and return what was run, as it ended. `command` says what to run for a part."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what it starts in the background, and children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    children, ended, printing = Children(), list[Ran](), threading.Lock()

    def run_lane(lane: Lane, *, live: bool) -> None:
        for part in lane:
            log = None if live else logs / f"{part}.log"
            _say(printing, f"=== {part} begins" + (f"; it prints to {log}" if log else ""))
            watch = Stopwatch()
            code = children.run(command(part), log=log)
            took = watch.took()
            with printing:
                ended.append(Ran(name=part, code=code, seconds=took.seconds, cores=took.cores))
            printed = log.read_text(errors="replace") if log else ""
            _say(printing, f"{printed}=== {part} {'failed' if code else 'is done'} after {took.seconds:.0f} s")
            if code:
                return

    with ThreadPoolExecutor(max_workers=max(1, len(lanes))) as pool:
        running = [pool.submit(run_lane, lane, live=not index) for index, lane in enumerate(lanes)]
        try:
            wait(running)
        except KeyboardInterrupt:
            _say(printing, "=== interrupted: ending what runs")
            children.end(signal.SIGINT)
            with suppress(KeyboardInterrupt):
                wait(running, timeout=GRACE_SECONDS)
            children.end(signal.SIGKILL)
        for lane in running:
            lane.result()
    return ended


def _say(printing: threading.Lock, text: str) -> None:
    with printing:
        print(text, flush=True)
