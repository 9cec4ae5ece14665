"""Worlds that are disturbed: at random from a seed, or by one death at a given request."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from tests.fakes.faults import Fault
from tests.faults.api_faults import is_an_operators, unheard_deletion
from tests.faults.cluster_faults import evictions
from tests.faults.invariants import evicted_in_vain, terminal
from tests.faults.mischief import CATALOGUE, COUNTED_WHEN_THEY_HIT
from tests.faults.people import attend
from tests.faults.scripts import Script
from tests.faults.virtual_time import run
from tests.faults.world import Violation, World, a_world

MEAN_PAUSE = 3.0
"""Seconds between two faults."""
RUN_PAUSE = 12.0
"""Seconds between two runs that are applied."""
PROMPT_SECONDS = 180.0
"""In which a run of a minute is over, also where requests are refused."""
RESYNC_SECONDS = 600.0
EVICTIONS = 16
EVICTED_SECONDS = 3600.0


@dataclass
class Tally:
    """What was done, and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    writes: int = 0
    seconds: float = 0
    """Simulated."""

    def add(self, other: Tally) -> None:
        """Both together."""
        self.faults += other.faults
        self.ends += other.ends
        self.runs += other.runs
        self.writes += other.writes
        self.seconds += other.seconds


def random_episode(seed: str, scripts: tuple[Script, ...]) -> tuple[Tally, str]:
    """One world with two operators in it, disturbed until its runs are over. Returns the digest of its history too:
    the same for the same seed. Raises Violation."""
    return run(_random_episode(seed, scripts))


async def _random_episode(seed: str, scripts: tuple[Script, ...]) -> tuple[Tally, str]:
    async with a_world(seed, operators=2) as world:
        rng = world.rng("faults")
        world.spawn(attend(world, world.rng("people")))
        order = rng.sample(scripts, len(scripts))
        for number, script in enumerate(order):
            world.spawn(world.use(script.name, script, after=20 + number * RUN_PAUSE))
        tally = Tally(runs=len(scripts))
        await asyncio.sleep(20)
        while len(world.scripts) < len(scripts) or not world.runs() or not all(map(terminal, world.runs())):
            await asyncio.sleep(rng.expovariate(1 / MEAN_PAUSE))
            _disturb(world, rng, tally)
            world.check()
            if asyncio.get_running_loop().time() > 20 + len(scripts) * RUN_PAUSE + 600:
                break
        await _calm(world, tally)
        return tally, world.audit.digest


def _disturb(world: World, rng: Random, tally: Tally) -> None:
    weights = [weight for weight, _ in CATALOGUE]
    mischief = rng.choices([each for _, each in CATALOGUE], weights)[0]
    if mischief(world, rng):
        world.audit.faults.append((asyncio.get_running_loop().time(), mischief.__name__))
        if mischief not in COUNTED_WHEN_THEY_HIT:
            tally.faults[mischief.__name__.replace("_", " ")] += 1


async def _calm(world: World, tally: Tally) -> None:
    """The world is left in peace; every run must come to its right end."""
    for name, armed in world.armed:
        tally.faults[name] += armed.hits
        world.server.faults.remove(armed)
    world.armed.clear()
    tally.faults += world.happened
    for replica in world.replicas.values():
        replica.wire.death = None
    await world.until_over()
    tally.ends.update((await world.judge()).values())
    tally.writes, tally.seconds = len(world.audit.writes), asyncio.get_running_loop().time()


def requests_of(script: Script) -> int:
    """How many requests an operator makes for a run that nothing disturbs."""
    return run(_alone(script, None))[1]


def deadly_episode(script: Script, request: int) -> Tally:
    """One run and one operator, which is killed as soon as its nth request took effect, and started again: dying
    before a request is dying after the one before. Raises Violation."""
    return run(_alone(script, request))[0]


def refused_episode(script: Script, request: int) -> Tally:
    """One run and one operator, whose nth request the API server answers with 500: the turn is made again soon, and
    not by the next resync. Raises Violation."""
    return run(_refused(script, request))


async def _refused(script: Script, refused: int) -> Tally:
    async with a_world(f"{script.name}/refused-{refused}", operators=1) as world:
        fault = Fault(status=500, when=is_an_operators, after=refused)
        world.armed.append(("refused once", world.server.faults.add(fault)))
        return await _one_run(world, script, within=PROMPT_SECONDS)


def gap_episode(script: Script) -> Tally:
    """One run and one operator, which no watch tells that the Job was deleted: the next resync does. Raises
    Violation."""
    return run(_gap(script))


async def _gap(script: Script) -> Tally:
    async with a_world(f"{script.name}/gap", operators=1) as world:
        world.spawn(unheard_deletion(world, after=28))
        return await _one_run(world, script, within=RESYNC_SECONDS + PROMPT_SECONDS)


def evicted_episode(script: Script) -> Tally:
    """One run and one operator, on nodes that evict its pods again and again: the operator counts, pauses and says so,
    and the run comes to its end when they no longer do. Raises Violation."""
    return run(_evicted(script))


async def _evicted(script: Script) -> Tally:
    async with a_world(f"{script.name}/evicted", operators=1) as world:
        world.spawn(_evict_its_pods(world, script))
        tally = await _one_run(world, script, within=EVICTED_SECONDS)
        for sentence in evicted_in_vain(world.audit.writes, times=EVICTIONS):
            raise Violation(f"seed {world.seed}: {sentence}\n{world.audit.history(script.name)}")
        return tally


async def _evict_its_pods(world: World, script: Script) -> None:
    await asyncio.sleep(10)
    found = world.run(script.name)
    assert found is not None
    await evictions(world, found["metadata"]["uid"], times=EVICTIONS)


def sidecar_episode(script: Script) -> Tally:
    """One run and one operator, where a webhook injects into all pods a container that never ends by itself: a person
    who is told helps, and a finished run holds nothing. Raises Violation."""
    return run(_sidecar(script))


async def _sidecar(script: Script) -> Tally:
    async with a_world(f"{script.name}/sidecar", operators=1) as world:
        world.trainers.injecting = True
        world.spawn(attend(world, world.rng("people")))
        return await _one_run(world, script, within=RESYNC_SECONDS + PROMPT_SECONDS)


async def _one_run(world: World, script: Script, *, within: float) -> Tally:
    """Have the only run of a world come to its right end, and soon."""
    tally = Tally(runs=1)
    world.spawn(world.use(script.name, script, after=2))
    await asyncio.sleep(within)
    if not all(map(terminal, world.runs())):
        history = world.audit.history(script.name)
        raise Violation(f"seed {world.seed}: {script.name} was not over after {within:.0f} s\n{history}")
    await _calm(world, tally)
    return tally


async def _alone(script: Script, deadly: int | None) -> tuple[Tally, int]:
    async with a_world(f"{script.name}/{deadly}", operators=1) as world:
        replica, tally = world.replicas["operator-0"], Tally(runs=1)
        world.spawn(world.use(script.name, script, after=2))
        if deadly is not None:
            replica.die_at(deadly, applied=True, happen=lambda: world.kill_operator(replica.name))
        await asyncio.sleep(60 + (script.deeds[-1][0] if script.deeds else 0))
        await world.until_over()
        tally.ends.update((await world.judge()).values())
        tally.faults["killed after a request"] += world.restarts
        tally.writes, tally.seconds = len(world.audit.writes), asyncio.get_running_loop().time()
        return tally, replica.wire.requests
