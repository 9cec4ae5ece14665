"""The work queue keeps client-go's promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lora_operator.engine import work_queue as module
from lora_operator.engine.work_queue import WorkQueue

A, B = ("team-a", "a"), ("team-a", "b")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(module, "LONGEST_DELAY", 0.06)


async def taken(queue: WorkQueue) -> Any:
    return await asyncio.wait_for(queue.get(), 1)


async def test_keys_come_in_order_and_once() -> None:
    queue = WorkQueue()
    for key in (A, B, A, A):
        queue.add(key)
    assert len(queue) == 2
    assert [await taken(queue), await taken(queue)] == [A, B]
    assert len(queue) == 0


async def test_a_key_is_worked_on_by_one_worker_at_a_time() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await taken(queue) == A
    queue.add(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.03)
    queue.done(A)
    assert await taken(queue) == A, "what was added meanwhile is not lost"


async def test_what_waits_wakes_the_getter() -> None:
    queue = WorkQueue()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    assert await asyncio.wait_for(getting, 1) == A


async def test_two_getters_share_two_keys() -> None:
    queue = WorkQueue()
    getters = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(A)
    queue.add(B)
    assert set(await asyncio.gather(*getters)) == {A, B}


async def test_a_getter_that_is_cancelled_takes_nothing_away() -> None:
    queue = WorkQueue()
    getting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    getting.cancel()
    queue.add(A)
    assert await taken(queue) == A


async def pause_after_failure(queue: WorkQueue, **options: Any) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    queue.failed(A, **options)
    assert await taken(queue) == A
    return loop.time() - began


async def test_failures_back_off_per_key_and_success_forgets_them() -> None:
    queue = WorkQueue()
    queue.add(A)
    await taken(queue)
    assert await pause_after_failure(queue) >= 0.019
    assert await pause_after_failure(queue) >= 0.039
    assert await pause_after_failure(queue) >= 0.059
    assert await pause_after_failure(queue) < 0.5, "there is a longest pause"
    queue.done(A)
    queue.add(A)
    assert await taken(queue) == A
    assert queue._failures == {}


async def test_the_servers_wish_for_a_pause_is_obeyed() -> None:
    queue = WorkQueue()
    queue.add(A)
    await taken(queue)
    assert await pause_after_failure(queue, retry_after=0.1) >= 0.099


async def test_a_failed_key_may_come_earlier_when_something_happens() -> None:
    queue = WorkQueue()
    queue.add(A)
    await taken(queue)
    queue.failed(A, retry_after=30)
    queue.add(A)
    assert await taken(queue) == A


async def test_the_earlier_of_two_appointments_stays() -> None:
    queue = WorkQueue()
    queue.add_after(A, 30)
    queue.add_after(A, 0.02)
    queue.add_after(A, 60)
    assert await taken(queue) == A
