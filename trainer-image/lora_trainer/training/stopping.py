"""Handles SIGTERM: ends at once, or lets the training loop save a checkpoint first.

A thread waits for the signal, because a Python handler runs only when the main thread returns from native code.
The signal must be blocked in the main thread before any other thread starts (see __main__).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequest:
    """Calls `leave` on SIGTERM or `request()`; after `defer()`, only notes the request."""

    def __init__(self, *, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._lock = threading.Lock()
        self._deferred = False
        self._requested = threading.Event()
        self._notify: Callable[[], None] | None = None
        threading.Thread(target=self._wait, name="sigterm", daemon=True).start()

    @property
    def requested(self) -> bool:
        """Whether the pod was asked to stop."""
        return self._requested.is_set()

    def tell(self, notify: Callable[[], None]) -> None:
        """Also call `notify` when the pod is asked to stop."""
        self._notify = notify

    def request(self) -> None:
        """Ask this pod to stop, as SIGTERM does."""
        if self._notify:
            self._notify()
        with self._lock:
            self._requested.set()
            if not self._deferred:
                self._leave()

    def defer(self) -> None:
        """Only note the request from here on, to the end of the `deferrable()` block that this is called in."""
        with self._lock:
            self._deferred = True

    @contextmanager
    def deferrable(self) -> Iterator[None]:
        """A block that ends when it sees `requested`. The caller checks `requested` afterwards."""
        try:
            yield
        finally:
            with self._lock:
                self._deferred = False

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.request()
