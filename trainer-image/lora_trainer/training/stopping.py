"""SIGTERM, told apart by what would be lost: leave at once, or let the training loop save a checkpoint first.

A thread waits for the signal, because a Python handler runs only when the main thread returns from native code.
The signal must be blocked in the main thread before any other thread starts (see __main__).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequest:
    """Calls `leave` on SIGTERM, except after `defer()`, when it is only noted."""

    def __init__(self, *, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._lock = threading.Lock()
        self._deferred = False
        self._requested = threading.Event()
        threading.Thread(target=self._wait, name="sigterm", daemon=True).start()

    @property
    def requested(self) -> bool:
        """Whether the pod was asked to stop."""
        return self._requested.is_set()

    def defer(self) -> None:
        """Only note the signal from here on, to the end of the `deferrable()` block that this is called in."""
        with self._lock:
            self._deferred = True

    @contextmanager
    def deferrable(self) -> Iterator[None]:
        """A stretch that ends itself when it sees `requested`. A caller looks at `requested` after it."""
        try:
            yield
        finally:
            with self._lock:
                self._deferred = False

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        with self._lock:
            self._requested.set()
            if not self._deferred:
                self._leave()
