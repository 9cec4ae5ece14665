"""Faults of the operators' own processes and machines. Each function returns whether it found something to hit."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

from lora_operator import naming

from tests.fakes.faults import Fault, RecordedRequest
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


def lose_the_lease(world: World, rng: Random) -> bool:
    """The operator that leads cannot renew the Lease for a while, and a write of its waits in the API server for longer
    than the Lease lasts."""
    del rng
    replica = _leader(world)
    if replica is None:
        return False
    identity = replica.wire.identity

    def renews(request: RecordedRequest) -> bool:
        return request.body["spec"].get("holderIdentity") == identity

    def writes(request: RecordedRequest) -> bool:
        return request.is_write and request.user_agent == naming.FIELD_MANAGER and request.resource != LEASES

    async def pass_by() -> None:
        faults = world.server.faults
        renewals = faults.add(Fault(verb="update", resource=LEASES, when=renews, status=500, count=None))
        world.armed.append(("lost the Lease while writing", faults.add(Fault(when=writes, delay=22.0))))
        await asyncio.sleep(25)
        faults.remove(renewals)

    world.spawn(pass_by())
    return True


def an_operator(world: World, rng: Random) -> Replica | None:
    """One that runs, if any."""
    return rng.choice([*world.replicas.values()]) if world.replicas else None


def _leader(world: World) -> Replica | None:
    lease = next(iter(world.server.objects(LEASES)), {})
    holder = lease.get("spec", {}).get("holderIdentity", "")
    return next((replica for replica in world.replicas.values() if replica.wire.identity == holder), None)
