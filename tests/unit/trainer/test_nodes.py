"""How the pods of a run on several nodes meet and part, over real sockets and in one process."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.training import nodes as module
from lora_trainer.training.nodes import Nodes, Place
from lora_trainer.training.ranks import free_port

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # see Pod._leave
PLAN = {"step": 4, "port": 29_500}


class Stop:
    """A StopRequest without a signal."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.told: Callable[[], None] | None = None

    def tell(self, told: Callable[[], None]) -> None:
        self.told = told

    def request(self) -> None:
        self.requested.set()


class Pod:
    """One node: its stop request, and the error that it left with."""

    def __init__(self, node: int, *, nodes: int, port: int, attempt: str = "uid/1", patience: float = 20.0) -> None:
        self.stop = Stop()
        self.left: Future[TrainerError] = Future()
        self.nodes = Nodes(
            Place(node=node, nodes=nodes, port=port),
            attempt=attempt,
            stop=self.stop,  # pyright: ignore[reportArgumentType] - stands in for it
            leave=self._leave,
            patience=patience,
        )

    def _leave(self, error: TrainerError) -> NoReturn:
        self.left.set_result(error)
        raise SystemExit  # ends the thread that calls it


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def pods(count: int, **settings: Any) -> list[Pod]:
    port = free_port()
    return [Pod(node, nodes=count, port=port, **settings) for node in range(count)]


def meet(threads: ThreadPoolExecutor, *all_pods: Pod) -> None:
    list(threads.map(lambda pod: pod.nodes.__enter__(), all_pods))


def part(pod: Pod, error: BaseException | None = None) -> None:
    pod.nodes.__exit__(type(error) if error else None, error, None)


def test_one_node_waits_for_nobody_and_speaks_of_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (alone,) = pods(1)
    with alone.nodes:
        assert alone.nodes.agree(PLAN) == PLAN
    assert caplog.messages == []


def test_all_nodes_hear_the_plan_of_the_first_once_all_are_there(threads: ThreadPoolExecutor) -> None:
    first, second, third = pods(3)
    meet(threads, first, second, third)
    plans = [threads.submit(pod.nodes.agree, PLAN if pod is first else None) for pod in (first, second)]
    time.sleep(0.1)
    assert not any(plan.done() for plan in plans), "the third is not there yet"
    assert third.nodes.agree() == PLAN
    assert [plan.result(10) for plan in plans] == [PLAN, PLAN]
    for pod in (third, second, first):
        part(pod)
    assert not any(pod.left.done() for pod in (first, second, third))


def test_a_first_node_that_is_done_lets_the_others_go(threads: ThreadPoolExecutor) -> None:
    first, second = pods(2)
    meet(threads, first, second)
    part(first)
    assert second.nodes.agree() is None
    assert not second.left.done()


def test_a_first_node_that_has_nothing_to_do_for_the_others_does_not_wait_for_them() -> None:
    first, second = pods(2)
    with first.nodes:
        pass
    with second.nodes:  # it comes late
        assert second.nodes.agree() is None
    assert not any(pod.left.done() for pod in (first, second))


@pytest.mark.parametrize("gone", [0, 1])
def test_the_end_of_one_node_ends_the_other(threads: ThreadPoolExecutor, gone: int) -> None:
    both = pods(2)
    meet(threads, *both)
    part(both[gone], TrainerError(ExitCode.OutOfMemory, "Memory ran out."))
    error = both[1 - gone].left.result(10)
    assert error.code is ExitCode.PeerLost
    assert error.message == f"The pod of node {gone} of 2 was lost, so this pod ended too."
    assert not both[gone].left.done(), "its own error tells what happened"


def test_a_bug_waits_for_the_end_of_another_node_that_may_be_its_cause(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 3.0)  # the other one's end is within it, on a busy machine too
    first, second = pods(2)
    meet(threads, first, second)
    ended = threads.submit(part, first, RuntimeError("Connection closed by peer"))
    part(second, TrainerError(ExitCode.OutOfMemory, "Memory ran out."))
    assert first.left.result(10).code is ExitCode.PeerLost
    ended.result(10)


def test_a_node_that_is_asked_to_stop_asks_the_first(threads: ThreadPoolExecutor) -> None:
    first, second = pods(2)
    meet(threads, first, second)
    assert first.stop.told is None, "the first decides at a step's end, and the others follow it there"
    assert second.stop.told
    second.stop.told()
    assert first.stop.requested.wait(10)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_node_that_does_not_come_is_not_waited_for_forever(missing: int) -> None:
    waiting = pods(2, patience=0.2)[1 - missing]
    with (
        pytest.raises(TrainerError, match=f"node {missing} of 2 did not connect within 0 minutes") as raised,
        waiting.nodes,
    ):
        waiting.nodes.agree(PLAN)
    assert raised.value.code is ExitCode.PeerLost


def test_strangers_are_not_let_in(threads: ThreadPoolExecutor) -> None:
    port = free_port()
    first, second = (Pod(node, nodes=2, port=port) for node in range(2))
    early = Pod(1, nodes=2, port=port, attempt="uid/0", patience=1.0)
    meet(threads, first)
    plan = threads.submit(first.nodes.agree, PLAN)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 1000)
    with pytest.raises(TrainerError, match="did not connect"), early.nodes:
        pass
    assert not plan.done()
    meet(threads, second)
    assert second.nodes.agree() == plan.result(10) == PLAN
    part(second)
    part(first)
