"""A work queue with the rules of client-go: one worker at a time has a key, and a key that is added meanwhile is queued
again afterwards. Failures back off per key."""

from __future__ import annotations

import asyncio
from collections import deque

from lora_operator.kube.store import Key

FIRST_DELAY = 0.2
LONGEST_DELAY = 60.0


class WorkQueue:
    """Keys that wait for a worker."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        """Queue the key for the next free worker."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._active:
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Queue the key after a delay. If it is already due earlier, nothing changes."""
        loop = asyncio.get_running_loop()
        before = self._timers.get(key)
        if before is not None:
            if before.when() <= loop.time() + seconds:
                return
            before.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    async def get(self) -> Key:
        """The next key. The caller must call `done` or `failed` for it."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        """Note that the reconcile succeeded."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key, *, retry_after: float | None = None) -> None:
        """Note that the reconcile failed, and queue the key again after a pause that doubles each time."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._release(key)
        pause = min(FIRST_DELAY * 2**failures, LONGEST_DELAY)
        self.add_after(key, max(pause, retry_after or 0.0))

    def _release(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._waiting:
            self._ready.append(key)
            self._wake.set()

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
