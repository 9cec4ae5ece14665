"""What a run is told whose Job a queue holds back."""

from __future__ import annotations

import pytest
from lora_operator.planning.observed import JobView, QueuePlace
from lora_operator.planning.suspended_job import queued

from tests.builders import a_dead_pod, a_job, a_pod, a_running_pod

TRAIN = "text-to-sql-train-1"


def held(**fields: object) -> JobView:
    """A Job in the queue `gpus`."""
    return a_job(**{"suspended": True, "queue": "gpus"} | fields)  # pyright: ignore[reportArgumentType] - as a_job's


@pytest.mark.parametrize(
    ("position", "words"),
    [
        (None, "gpus. It"),
        (1, "gpus at position 1. It"),
        (10, "gpus at position 10. It"),
        (11, "gpus after position 10. It"),
        (20, "gpus after position 10. It"),
        (21, "gpus after position 20. It"),
        (1000, "gpus after position 500. It"),
    ],
)
def test_the_position_is_exact_at_the_front_and_rough_behind(position: int | None, words: str) -> None:
    assert f"{TRAIN} waits in LocalQueue {words}" in queued(held(place=QueuePlace(position=position))).message


def test_each_run_of_a_long_queue_is_told_of_few_moves() -> None:
    told = {queued(held(place=QueuePlace(position=place))).message for place in range(1, 1001)}
    assert len(told) == 16


def test_the_queue_s_own_words_end_in_one_full_stop() -> None:
    assert queued(held(place=QueuePlace(because="no room."))).message.endswith("Kueue says: no room.")
    assert len(queued(held(place=QueuePlace(because="x" * 10_000))).message) < 1000


def test_a_queue_that_is_not_kueue_has_no_name() -> None:
    assert queued(held(queue=None)).message == f"A queue suspends Job {TRAIN}. The Job starts when the queue has room."


@pytest.mark.parametrize(
    ("pods", "gives_way"),
    [
        ((), False),
        ((a_pod(TRAIN),), False),
        ((a_running_pod(TRAIN),), True),
        ((a_dead_pod(TRAIN, code=40),), False),
    ],
    ids=["none", "waiting", "running", "ended"],
)
def test_a_pod_that_runs_is_said_to_give_way(pods: tuple, gives_way: bool) -> None:
    message = queued(held(pods=pods)).message
    assert ("writes a checkpoint and ends" in message) == gives_way
