"""A simulated cluster with operators in it: everything in one thread, in leaping time, from one seed."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import yaml
from lora_operator import naming
from lora_operator.engine.engine import cancel
from lora_operator.engine.leader import LeaseTiming
from lora_operator.settings import OperatorSettings

from tests.builders import NAMESPACE, T0, class_body, run_body
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.faults import ArmedFault
from tests.fakes.kubelet import Kubelet
from tests.faults.audit import Audit
from tests.faults.invariants import Checker, terminal
from tests.faults.judge import judge
from tests.faults.replica import Replica
from tests.faults.scripts import Deed, Script
from tests.faults.trainers import NODES, Trainers
from tests.faults.wire import OPERATOR_NAMESPACE, Network

Obj = dict[str, Any]
CRDS = sorted((Path(__file__).parents[2] / "manifests" / "crd").glob("lora*.yaml"))
RESTART_SECONDS = 5.0
LONGEST = 4 * 3600.0
QUIET = 900.0
"""Longer than between two resyncs."""
CLOCKS = (timedelta(), timedelta(seconds=20), timedelta(hours=1), timedelta(hours=-2))
"""How far the clocks of nodes are ahead."""
AT_EASE = LeaseTiming(duration=40, deadline=35, renew=15, retry=5)
"""Of an operator that has no rival."""


class Violation(AssertionError):
    """An invariant did not hold; the text has the history of what violated it."""


@functools.cache
def _crds() -> tuple[Obj, ...]:
    return tuple(yaml.safe_load(path.read_text()) for path in CRDS)


@dataclass
class World:
    """The cluster, its users and its operators."""

    seed: str
    server: FakeApiServer
    audit: Audit
    checker: Checker
    network: Network
    trainers: Trainers
    clock: Callable[[], datetime]
    timing: LeaseTiming
    quiet: float
    """Seconds in which nothing may happen at the end."""
    replicas: dict[str, Replica] = field(default_factory=dict)
    """By name, while they live."""
    scripts: dict[str, Script] = field(default_factory=dict)
    """By name of the run."""
    bugs: list[str] = field(default_factory=list)
    """Turns that ended in an exception which is none of the API server's."""
    restarts: int = 0
    armed: list[tuple[str, ArmedFault]] = field(default_factory=list)
    """Faults of single requests, with what they are counted as."""
    happened: Counter[str] = field(default_factory=Counter)
    """Faults that were set to happen later, and did."""
    kept: dict[str, Obj] = field(default_factory=dict)
    """Copies of ConfigMaps that tenants deleted, by the uid of the run."""
    held: set[str] = field(default_factory=set)
    """What is held up already."""
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def rng(self, concern: str) -> Random:
        """Randomness of its own for each concern."""
        return Random(f"{self.seed}/{concern}")

    # --- operators ----------------------------------------------------------------------------------------------

    def start_operator(self, name: str) -> Replica:
        """A process begins."""
        replica = Replica(
            name=name,
            identity=f"{name}_{self.restarts}",
            network=self.network,
            clock=self.clock,
            ask=self.trainers.ask,
            rng=self.rng(f"{name}/{self.restarts}"),
            settings=OperatorSettings(workers=4, namespace=OPERATOR_NAMESPACE),
            timing=self.timing,
        )
        self.replicas[name] = replica
        replica.start()
        return replica

    async def kill_operator(self, name: str, *, cleanly: bool = False, after: float = RESTART_SECONDS) -> None:
        """A process ends, and its kubelet starts another."""
        replica = self.replicas.pop(name, None)
        if replica is None:
            return
        await (replica.stop() if cleanly else replica.kill())
        self._keep_usurpations(replica)
        await asyncio.sleep(after)
        self.restarts += 1
        self.start_operator(name)

    def spawn(self, what: Any) -> None:
        """Something happens beside everything else."""
        self._tasks.append(asyncio.get_running_loop().create_task(what))

    async def supervise(self) -> None:
        """Operators that end by themselves are started again; what is not allowed to end, is told."""
        while True:
            await asyncio.sleep(1)
            for name, replica in tuple(self.replicas.items()):
                self._keep_usurpations(replica)
                if replica.engine.failure is not None:
                    self.bugs.append(f"{name}: {replica.engine.failure}")
                if replica.crash is not None:
                    self.spawn(self.kill_operator(name))

    def _keep_usurpations(self, replica: Replica) -> None:
        self.bugs += replica.wire.usurpations
        replica.wire.usurpations.clear()

    # --- users --------------------------------------------------------------------------------------------------

    def run(self, name: str) -> Obj | None:
        """A run as it stands."""
        return self.server.find(naming.RUN_PLURAL, name, NAMESPACE)

    def runs(self) -> list[Obj]:
        """All runs that are there."""
        return self.server.objects(naming.RUN_PLURAL, NAMESPACE)

    async def use(self, name: str, script: Script, *, after: float) -> None:
        """A user applies a run and does what the script says."""
        self.scripts[name] = script
        await asyncio.sleep(after)
        self._apply(name, script)
        began = asyncio.get_running_loop().time()
        for second, deed in script.deeds:
            await asyncio.sleep(max(began + second - asyncio.get_running_loop().time(), 0))
            await self._do(deed, name, script)

    def _apply(self, name: str, script: Script) -> None:
        spec: Obj = {"output": {"uri": f"s3://team-a/adapters/{name}"}} | script.spec
        self.server.create(run_body(name, **spec))

    async def _do(self, deed: Deed, name: str, script: Script) -> None:
        match deed:
            case Deed.DELETE:
                self.server.delete(naming.RUN_PLURAL, name, NAMESPACE)
            case Deed.APPLY_AGAIN:
                self._apply(name, script)
            case Deed.SUSPEND | Deed.RESUME:
                run = self.run(name)
                assert run is not None
                self.trainers.truth.suspended.add(run["metadata"]["uid"])
                suspend = deed is Deed.SUSPEND
                self.server.patch(naming.RUN_PLURAL, name, NAMESPACE, merge={"spec": {"suspend": suspend}})

    # --- what came of it ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises Violation when anything is wrong so far."""
        if self.audit.violations:
            run, sentence = self.audit.violations[0]
            raise Violation(f"seed {self.seed}: {run}: {sentence}\n{self.audit.history(run)}")
        if self.bugs:
            raise Violation(f"seed {self.seed}: {self.bugs[0]}")
        if self.server.crashes:
            raise self.server.crashes[0]

    async def until_over(self) -> None:
        """Wait until every run has ended. Raises Violation for one that does not."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LONGEST
        while unfinished := [run["metadata"]["name"] for run in self.runs() if not terminal(run)]:
            if loop.time() > end:
                name = unfinished[0]
                raise Violation(f"seed {self.seed}: {name} never ended\n{self.audit.history(name)}")
            await asyncio.sleep(5)
            self.check()

    async def judge(self) -> dict[str, str]:
        """Once every run has ended: the reason of each. Raises Violation where it is not the right one, where
        something is left over, and where the world does not come to rest."""
        await asyncio.sleep(self.quiet)
        written = len(self.audit.writes)
        await asyncio.sleep(self.quiet)
        late = [write for write in self.audit.writes[written:] if not write.resource.startswith("leases")]
        self._complain([(write.obj["metadata"]["name"], f"no rest: {write}") for write in late])
        self._complain([("", sentence) for sentence in self.checker.left_over()])
        self._complain([("", sentence) for sentence in self._remembered()])
        ends = {}
        for run in self.runs():
            name = run["metadata"]["name"]
            self._complain([(name, text) for text in judge(run, self.scripts[name], self.trainers.truth)])
            ready = (entry for entry in run["status"]["conditions"] if entry["type"] == "Ready")
            ends[name] = next(ready)["reason"]
        missing = [name for name, script in self.scripts.items() if script.expected and name not in ends]
        self._complain([(name, "the run is gone") for name in missing])
        return ends

    def _remembered(self) -> list[str]:
        """What operators still remember of runs that are over."""
        caches = ((identity, replica.engine.cache) for identity, replica in self.replicas.items())
        kept = ((identity, cache.resolved.keys() | cache.starting) for identity, cache in caches)
        return [f"{identity} still remembers {sorted(uids)}" for identity, uids in kept if uids]

    def _complain(self, found: Sequence[tuple[str, str]]) -> None:
        self.audit.violations += found
        self.check()

    async def end(self) -> None:
        """Stop everything."""
        for replica in tuple(self.replicas.values()):
            await replica.kill()
        await cancel(self._tasks)


class _Bugs(logging.Handler):
    """Turns that failed for another reason than the API server's."""

    def __init__(self, world: World) -> None:
        super().__init__(level=logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._world.bugs.append(f"{record.getMessage()} {getattr(record, 'run', '')}: {error!r}")


@asynccontextmanager
async def a_world(seed: str, *, operators: int) -> AsyncIterator[World]:
    """A world with a class and so many operators. Leaving it checks it."""
    loop = asyncio.get_running_loop()

    def clock() -> datetime:
        return T0 + timedelta(seconds=int(loop.time()))

    server = FakeApiServer(
        crds=_crds(),
        namespaces=[NAMESPACE, OPERATOR_NAMESPACE],
        clock=clock,
        bookmark_interval=30.0,
        rng=Random(f"{seed}/names"),
    )
    checker = Checker()
    audit = Audit(time=loop.time, check=checker.see)
    network = Network(server=server, audit=audit, rng=Random(f"{seed}/network"))
    trainers = Trainers(server=server, rng=Random(f"{seed}/pods"), script_of=lambda name: world.scripts[name])
    world = World(
        seed=seed,
        server=server,
        audit=audit,
        checker=checker,
        network=network,
        trainers=trainers,
        clock=clock,
        timing=LeaseTiming() if operators > 1 else AT_EASE,
        quiet=QUIET if operators > 1 else 120.0,
    )
    server.store.listeners.append(audit.see)
    log, bugs = logging.getLogger("lora_operator"), _Bugs(world)
    log.addHandler(bugs)
    propagate, log.propagate = log.propagate, False
    try:
        async with Kubelet(server) as kubelet:
            trainers.attach(kubelet)
            kubelet.clocks |= zip(NODES, world.rng("clocks").sample(CLOCKS, len(CLOCKS)), strict=True)
            server.create(class_body(limits={"nodes": 2}, train={"placement": "PodByPod"}))
            world.spawn(world.supervise())
            for number in range(operators):
                world.start_operator(f"operator-{number}")
            yield world
            world.check()
    finally:
        await world.end()
        log.removeHandler(bugs)
        log.propagate = propagate
