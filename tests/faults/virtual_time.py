"""An event loop whose time does not pass but leaps: to the next timer, as soon as nothing is left to do.

An outage of thirty seconds costs nothing, and what happens depends on the program alone, not on the machine's speed.
For code that waits for timers and tasks only; threads and sockets know nothing of this time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
TICK = 1e-6
"""Seconds that a turn of the loop takes: without them, whoever waits for a moment that rounding puts just before its
deadline would wait for ever."""


class StandStill(RuntimeError):
    """Everything waits and no timer is set: nothing would ever happen again."""


class _LeapingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise StandStill("every task waits for another one")
        self.now += max(timeout, TICK)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; its time begins at 0."""

    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in leaping time. Raises StandStill."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
