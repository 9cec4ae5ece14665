"""Time that leaps."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.faults.virtual_time import StandStill, run


def test_hours_pass_in_no_time_and_in_order() -> None:
    order: list[str] = []

    async def say(word: str, *, after: float) -> None:
        await asyncio.sleep(after)
        order.append(word)

    async def main() -> float:
        await asyncio.gather(say("late", after=7200), say("early", after=3600))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.sleep(200)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main()) == pytest.approx(7300, abs=0.01)
    assert time.monotonic() - began < 2
    assert order == ["early", "late"]


def test_a_world_that_stands_still_is_no_success() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StandStill):
        run(main())


def test_whoever_waits_for_less_than_rounding_tells_apart_gets_there() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1e6)
        end, turns = loop.time() + 1.1, 0
        while loop.time() < end:
            await asyncio.sleep(min(end - loop.time(), 0.3))
            turns += 1
        return turns

    assert run(main()) < 20
