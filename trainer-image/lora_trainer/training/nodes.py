"""Connects the pods of a run on several nodes, and ends all of them when one ends.

Each further node keeps a TCP connection to the first one, with one JSON message per line. Training uses
torch.distributed instead, where a lost peer may show as any error, or not at all.
"""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.training.ranks import GRACE_SECONDS
from lora_trainer.training.stopping import StopRequest

ARRIVAL_SECONDS = 15 * 60
"""How long the pods wait for each other: pulling an image takes minutes, and a node may have no room for a pod."""
HELLO_SECONDS = 5
LONGEST_HELLO = 512
RETRY_SECONDS = 1.0
SILENCE_SECONDS = 30
"""A node that cannot be reached for this long is lost."""

log = logging.getLogger(__name__)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of a run's nodes this is, and where the first one is reached."""

    node: int = 0
    nodes: int = 1
    host: str = "127.0.0.1"
    port: int = 0


class Nodes:
    """The connections to the other nodes, while used as a context manager. No connections where there is one node.

    A further node starts by connecting to the first one. The first one waits for the others only in `agree`, because it
    may find that no step is left for them. A node that is lost ends this process through `leave`, as PeerLost. Leaving
    the block tells the others, also those that connect later, that this node no longer needs them.
    """

    def __init__(
        self,
        place: Place,
        *,
        attempt: str,
        stop: StopRequest,
        leave: Callable[[TrainerError], NoReturn],
        patience: float = ARRIVAL_SECONDS,
    ) -> None:
        """`attempt` identifies the pods of one attempt, because an address may meanwhile belong to another pod."""
        self.place = place
        self._attempt = attempt
        self._stop = stop
        self._leave = leave
        self._deadline = time.monotonic() + patience
        self._patience = patience
        self._peers: list[_Peer] = []
        self._arrivals = threading.Condition()
        self._ready: queue.Queue[int] = queue.Queue()
        self._plans: queue.Queue[Message | None] = queue.Queue()
        self._lost = threading.Event()
        self._done = False
        self._closing = False

    def __enter__(self) -> Self:
        place = self.place
        if place.nodes == 1:
            return self
        if place.node > 0:
            self._hold(self._connected(), 0)
            self._stop.tell(lambda: self._send({"stop": True}))
        else:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            server = socket.create_server(("", place.port), family=family, dualstack_ipv6=dual)
            threading.Thread(target=self._receive, args=(server,), name="nodes", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            with self._arrivals:
                self._done = True
            self._send({"done": True})
        elif not isinstance(error, TrainerError):
            self._await_cause()
        self._closing = True
        for peer in self._peers:
            peer.close()

    def agree(self, plan: Message | None = None) -> Message | None:
        """Wait until all nodes are connected. Returns the first node's `plan`, or None where it needs them no longer.

        Only the first node passes a plan. Raises PeerLost where a node does not connect.
        """
        if self.place.node == 0:
            self._await_arrivals()
            for _ in self._peers:
                self._ready.get()
            self._send({"plan": plan})
            return plan
        self._send({"here": True})
        return self._plans.get()

    def leave(self, error: TrainerError) -> NoReturn:
        """End this process. For a bug, wait a moment first, because the loss of another node may be its cause."""
        if error.code is ExitCode.InternalError:
            self._await_cause()
        self._leave(error)

    def _await_cause(self) -> None:
        """Where another node is lost, the thread that listens to it ends this process meanwhile."""
        if self._peers and self._lost.wait(GRACE_SECONDS):
            time.sleep(2 * GRACE_SECONDS)

    def _send(self, message: Message) -> None:
        for peer in self._peers:
            peer.send(message)

    def _listen(self, peer: _Peer) -> None:
        for message in peer.messages():
            if "here" in message:
                self._ready.put(peer.node)
            if "plan" in message:
                self._plans.put(message["plan"])
            if "stop" in message:
                self._stop.request()
            if "done" in message:
                peer.done = True
                self._plans.put(None)
        if not (peer.done or self._closing):
            self._lost.set()
            # Let the Job controller see that pod's end first. It then deletes this pod with its termination message.
            time.sleep(GRACE_SECONDS)
            self._leave(
                TrainerError(
                    ExitCode.PeerLost,
                    f"The pod of node {peer.node} of {self.place.nodes} was lost, so this pod ended too.",
                    "The next attempt resumes from the last checkpoint.",
                )
            )

    def _hold(self, connection: socket.socket, node: int) -> None:
        """Listen to a node from now on."""
        peer = _Peer(connection, node)
        with self._arrivals:
            self._peers.append(peer)
            if self._done:  # it connected after the others were told
                peer.send({"done": True})
            self._arrivals.notify_all()
        threading.Thread(target=self._listen, args=(peer,), name=f"node-{node}", daemon=True).start()

    def _receive(self, server: socket.socket) -> NoReturn:
        """Accept the connections of further nodes, as long as this process lives."""
        while True:
            connection, _ = server.accept()
            node = self._greeted(connection)
            if node in self._missing:
                self._hold(connection, node)
                if not self._missing:
                    log.info("All %d nodes are connected", self.place.nodes)
            else:
                connection.close()

    @property
    def _missing(self) -> set[int]:
        """The further nodes that have not connected yet."""
        return set(range(1, self.place.nodes)) - {peer.node for peer in self._peers}

    def _await_arrivals(self) -> None:
        with self._arrivals:
            if not self._arrivals.wait_for(lambda: not self._missing, max(self._deadline - time.monotonic(), 0)):
                raise self._not_connected(*self._missing)

    def _greeted(self, connection: socket.socket) -> int | None:
        """The number of the node that connects; None for a connection from elsewhere."""
        hello: Message = {}
        with suppress(OSError, ValueError):
            connection.settimeout(HELLO_SECONDS)
            hello = _read_line(connection)
            if hello.get("attempt") == self._attempt:
                _write_line(connection, {"attempt": self._attempt})
                return hello["node"]
        return None

    def _connected(self) -> socket.socket:
        """Connect to the first node. Raises PeerLost where it does not answer."""
        place, hello = self.place, {"attempt": self._attempt, "node": self.place.node}
        while time.monotonic() < self._deadline:
            # The first pod's name does not resolve until it has an address, and it refuses until it listens.
            with suppress(OSError, ValueError):
                connection = socket.create_connection((place.host, place.port), timeout=HELLO_SECONDS)
                connection.settimeout(max(self._deadline - time.monotonic(), HELLO_SECONDS))
                _write_line(connection, hello)
                if _read_line(connection).get("attempt") == self._attempt:
                    return connection
                connection.close()
            time.sleep(RETRY_SECONDS)
        raise self._not_connected(0)

    def _not_connected(self, *missing: int) -> TrainerError:
        who = ", ".join(str(node) for node in sorted(missing))
        return TrainerError(
            ExitCode.PeerLost,
            f"The pod of node {who} of {self.place.nodes} did not connect within {self._patience / 60:.0f} minutes.",
            "Check why that pod does not start (kubectl describe pod). With a queue (spec.queueName), all pods start"
            " together.",
        )


class _Peer:
    """The connection to one node."""

    def __init__(self, connection: socket.socket, node: int) -> None:
        self.node = node
        self.done = False
        """Whether that node has said that it no longer needs this one."""
        self._socket = connection
        self._lock = threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 2)):
            connection.setsockopt(socket.IPPROTO_TCP, option, seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)

    def send(self, message: Message) -> None:
        """Send a message. Errors are ignored, because the listening thread notices a lost node."""
        with self._lock, suppress(OSError):
            _write_line(self._socket, message)

    def messages(self) -> Iterator[Message]:
        """The messages of the node, until the connection ends."""
        with suppress(OSError, ValueError), self._socket.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def close(self) -> None:
        """Close the connection, so that the other side notices."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _write_line(connection: socket.socket, message: Message) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(connection: socket.socket) -> Message:
    """A short message, read byte by byte so that nothing of the next is taken. Raises OSError and ValueError."""
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_HELLO:
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("the connection was closed")
        line += byte
    return json.loads(line)
