"""Faults of the operators' own processes and machines. Each function returns whether it found something to hit."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from tests.faults.replica import Replica
from tests.faults.wire import LEASES
from tests.faults.world import World


def kill_at_a_request(world: World, rng: Random) -> bool:
    """The operator that leads is killed at one of its next requests, before or after it took effect."""
    replica = _leader(world)
    if replica is None or replica.wire.death is not None:
        return False
    after = rng.uniform(0.5, 20)

    async def happen() -> None:
        world.happened["kill at a request"] += 1
        await world.kill_operator(replica.name, after=after)

    replica.die_at(rng.randint(0, 12), applied=rng.random() < 0.5, happen=happen)
    return True


def kill(world: World, rng: Random) -> bool:
    """An operator is killed between two requests."""
    replica = an_operator(world, rng)
    if replica is not None:
        world.spawn(world.kill_operator(replica.name, after=rng.uniform(0.5, 20)))
    return replica is not None


def stop(world: World, rng: Random) -> bool:
    """An operator is asked to stop, as in a rolling update."""
    replica = an_operator(world, rng)
    if replica is not None:
        world.spawn(world.kill_operator(replica.name, cleanly=True, after=rng.uniform(0.5, 5)))
    return replica is not None


def skew(world: World, rng: Random) -> bool:
    """The clock of an operator's machine jumps."""
    replica = an_operator(world, rng)
    if replica is not None:
        replica.skew = timedelta(seconds=rng.randint(-120, 120))
    return replica is not None


def an_operator(world: World, rng: Random) -> Replica | None:
    """One that runs, if any."""
    return rng.choice([*world.replicas.values()]) if world.replicas else None


def _leader(world: World) -> Replica | None:
    lease = next(iter(world.server.objects(LEASES)), {})
    holder = lease.get("spec", {}).get("holderIdentity", "")
    return next((replica for replica in world.replicas.values() if replica.wire.identity == holder), None)
