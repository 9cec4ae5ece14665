"""Which of two operators acts, on the fake API server: elections with short times, and two whole operators."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lora_operator.engine.leader import Leader, LeaseTiming, unique_identity
from lora_operator.kube.errors import KubeError, NotLeading
from lora_operator.kube.gateway import CONFIG_MAPS, Gateway, connect
from lora_operator.naming import LEASE_NAME, Stage

from tests.builders import NAME, NAMESPACE
from tests.component.world import PATIENCE, World, an_operator
from tests.fakes.faults import Fault

TIMING = LeaseTiming(duration=4.0, deadline=2.4, renew=0.4, retry=0.2)
"""Short, yet long beside the moments for which a busy machine may hold a process up."""
MOMENT = 1.2
LEASES = "leases.coordination.k8s.io"


@dataclass
class Election:
    """Two candidates, and every moment in which both led."""

    world: World
    gateway: Gateway
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    leaders: dict[str, Leader] = field(default_factory=dict)
    both: int = 0

    def run(self, *names: str) -> None:
        """These become candidates."""
        for name in names:
            leader = Leader(gateway=self.gateway, identity=name, namespace=NAMESPACE, timing=TIMING)
            self.leaders[name] = leader
            self.tasks[name] = asyncio.create_task(self._campaign(leader))

    async def _campaign(self, leader: Leader) -> None:
        while True:
            await leader.acquire()
            await leader.hold()

    def die(self, name: str) -> None:
        """As by kill -9: nothing is released."""
        self.tasks.pop(name).cancel()
        self.leaders.pop(name)

    @property
    def leading(self) -> list[str]:
        return [name for name, leader in self.leaders.items() if leader.leads]

    async def watch(self) -> None:
        """Look all the time whether two lead."""
        while True:
            self.both += len(self.leading) > 1
            await asyncio.sleep(0.005)

    async def until(self, *names: str, within: float = PATIENCE) -> float:
        """Wait until exactly these lead; returns the seconds it took."""
        began = time.monotonic()
        await self.world.server.wait_for(lambda: self.leading == list(names), timeout=within)
        return time.monotonic() - began


@pytest.fixture
async def election(bare_world: World, kubeconfig: Path) -> AsyncIterator[Election]:
    bare_world.server.kubeconfig(kubeconfig)
    async with connect(record=lambda *_: None) as gateway:
        election = Election(bare_world, gateway)
        watching = asyncio.create_task(election.watch())
        yield election
        for task in (watching, *election.tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert election.both == 0, "never two at a time"


async def test_one_leads_and_the_other_takes_over_when_it_lets_go(election: Election) -> None:
    election.run("a")
    await election.until("a")
    election.run("b")
    await asyncio.sleep(2 * TIMING.duration)
    assert election.leading == ["a"], "it renews"
    leader = election.leaders["a"]
    election.tasks.pop("a").cancel()
    await leader.release()
    assert await election.until("b") < TIMING.duration / 2
    assert election.world.server.get(LEASES, LEASE_NAME, NAMESPACE)["spec"]["leaseTransitions"] == 1


async def test_one_that_died_is_followed_when_its_lease_has_run_out(election: Election) -> None:
    election.run("a")
    await election.until("a")
    election.run("b")
    await asyncio.sleep(2 * TIMING.retry)
    election.die("a")
    taken = await election.until("b")
    assert TIMING.duration - 2 * TIMING.renew < taken < TIMING.duration + TIMING.renew + MOMENT


async def test_a_restarted_process_does_not_take_the_lease_of_the_one_before_for_its_own(election: Election) -> None:
    before, restarted = unique_identity(), unique_identity()
    election.run(before)
    await election.until(before)
    election.run(restarted)
    await asyncio.sleep(3 * TIMING.renew)
    assert election.leading == [before], "both are on one host"
    election.die(before)
    assert await election.until(restarted) > TIMING.duration - 2 * TIMING.renew


async def test_a_write_that_the_api_server_delays_never_lands_under_the_next_leader(election: Election) -> None:
    """A write waits in the API server for longer than the Lease lasts, and its sender does not renew the Lease."""
    election.run("a")
    await election.until("a")
    election.run("b")
    leader, faults = election.leaders["a"], election.world.server.faults
    guarded = election.gateway.writing_within(lambda: leader.seconds_left)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": NAMESPACE}}
    faults.add(Fault(verb="create", resource="configmaps", delay=2 * TIMING.duration))
    began = time.monotonic()
    writing = asyncio.create_task(guarded.create(CONFIG_MAPS, body))
    election.die("a")
    with pytest.raises(KubeError):
        await writing
    assert time.monotonic() - began < TIMING.deadline + MOMENT
    await election.until("b")
    await asyncio.sleep(2 * TIMING.duration)
    assert election.world.server.find("configmaps", "late", NAMESPACE) is None


async def test_a_leader_that_stops_waits_for_the_answers_to_its_writes(election: Election) -> None:
    """Cancelling whoever waits for an answer takes nothing back."""
    election.world.server.faults.add(Fault(verb="create", resource="configmaps", delay=MOMENT))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sent", "namespace": NAMESPACE}}
    writing = asyncio.create_task(election.gateway.create(CONFIG_MAPS, body))
    await election.world.server.wait_for(lambda: len(election.world.server.writes()) > 0)
    writing.cancel()
    await asyncio.sleep(0)
    assert election.world.server.find("configmaps", "sent", NAMESPACE) is None
    await election.gateway.writes_ended()
    assert election.world.server.find("configmaps", "sent", NAMESPACE) is not None


async def test_nobody_leads_without_an_api_server(election: Election) -> None:
    election.run("a", "b")
    await election.world.server.wait_for(lambda: len(election.leading) == 1)
    with election.world.server.outage():
        assert await election.until() < TIMING.deadline + MOMENT
    await election.world.server.wait_for(lambda: len(election.leading) == 1)


async def test_a_request_that_hangs_does_not_keep_anybody_in_office(election: Election) -> None:
    election.run("a")
    await election.until("a")
    election.world.server.faults.add(Fault(resource=LEASES, delay=1.5 * TIMING.duration, count=None))
    assert await election.until() < TIMING.deadline + MOMENT


async def test_whoever_does_not_lead_writes_nothing(election: Election) -> None:
    leader = Leader(gateway=election.gateway, identity="a", namespace=NAMESPACE, timing=TIMING)
    guarded = election.gateway.writing_within(lambda: leader.seconds_left)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": NAMESPACE}}
    with pytest.raises(NotLeading):
        await guarded.create(CONFIG_MAPS, body)
    assert election.world.server.find("configmaps", "x", NAMESPACE) is None
    await leader.acquire()
    await guarded.create(CONFIG_MAPS, body)
    await leader.release()
    with pytest.raises(NotLeading):
        await guarded.delete(CONFIG_MAPS, NAMESPACE, "x")
    assert [item async for item in guarded.list(CONFIG_MAPS, NAMESPACE)], "reading goes on"


async def test_the_second_operator_goes_on_where_the_first_one_stopped(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with contextlib.AsyncExitStack() as second:
        async with an_operator(world, kubeconfig):
            world.apply()
            await world.pod(Stage.PREPARE)
            await second.enter_async_context(an_operator(world, kubeconfig, replicas=2))
            await world.settle()
            assert len(world.created_jobs()) == 1
        began = time.monotonic()
        await world.prepare()
        await world.pod(Stage.TRAIN)
        assert time.monotonic() - began < LeaseTiming.duration, "the first one let go"
        await world.train()
        await world.until("AdapterPublished")
    assert world.created_jobs() == [f"{NAME}-prepare-1", f"{NAME}-train-1"]
