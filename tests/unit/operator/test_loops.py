"""The engine's loops: work that fails does not end them, and one that fails for good is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from lora_operator.engine.loops import BROKEN_AFTER, FIRST_PAUSE, LONGEST_PAUSE, Loop, each
from lora_operator.kube.errors import Throttled, Unavailable
from lora_operator.metrics import Metrics

from tests.faults.virtual_time import run

PAUSE = 100.0
AWAY, ODD = Unavailable("the API server is away", status=0), KeyError("items")


@dataclass
class Work:
    """Fails with these, one after another, and then succeeds."""

    failures: Iterator[Exception]
    times: list[float] = field(default_factory=list)

    async def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        if (failure := next(self.failures, None)) is not None:
            raise failure


def repeat(work: Callable[[], Awaitable[None]], *, seconds: float) -> Loop:
    """The loop, after it has run for so long."""
    loop = Loop(name="poller", work=work, metrics=Metrics(), pause=lambda: PAUSE)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await loop.run()

    run(main())
    return loop


def errors(loop: Loop) -> float | None:
    return loop.metrics.registry.get_sample_value("lora_operator_loop_errors_total", {"loop": "poller"})


@pytest.mark.parametrize("failure", [AWAY, ODD, RuntimeError("a bug")])
def test_work_that_failed_is_repeated_after_growing_pauses(failure: Exception) -> None:
    work = Work(iter([failure] * 3))
    loop = repeat(work, seconds=2 * PAUSE)
    assert work.times == pytest.approx([0, 1, 3, 7, 107], abs=0.01)
    assert loop.broken is None
    assert errors(loop) == (0 if failure is AWAY else 3)


def test_the_api_server_says_how_long_to_wait() -> None:
    work = Work(iter([Throttled("", status=429, retry_after=50.0)]))
    repeat(work, seconds=60)
    assert work.times == pytest.approx([0, 50], abs=0.01)


def test_a_loop_that_never_works_is_reported_and_goes_on() -> None:
    work = Work(iter([ODD] * 1000))
    loop = repeat(work, seconds=BROKEN_AFTER * LONGEST_PAUSE)
    assert loop.broken == f"loop poller failed {len(work.times)} times in a row: KeyError('items')"
    assert work.times[1] == pytest.approx(FIRST_PAUSE, abs=0.01)


def test_a_loop_that_works_again_is_not_broken() -> None:
    loop = repeat(Work(iter([ODD] * BROKEN_AFTER)), seconds=BROKEN_AFTER * LONGEST_PAUSE)
    assert loop.broken is None


def test_an_api_server_that_is_away_breaks_no_loop() -> None:
    assert repeat(Work(iter([AWAY] * 1000)), seconds=3600).broken is None


async def test_each_is_tried_though_one_fails() -> None:
    done: list[int] = []

    async def do(number: int) -> None:
        if number == 1:
            raise AWAY
        done.append(number)

    with pytest.raises(Unavailable):
        await each(do(number) for number in range(3))
    assert done == [0, 2]
