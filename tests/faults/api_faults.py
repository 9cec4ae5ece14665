"""Faults on the way to the API server, and of watches. Each function returns whether it found something to hit."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from lora_operator import naming

from tests.fakes.faults import Fault, RecordedRequest
from tests.faults.cluster_faults import delete_job, delete_something
from tests.faults.operator_faults import an_operator
from tests.faults.world import World

KINDS = (naming.RUN_PLURAL, naming.CLASS_PLURAL, "jobs", "pods")
REQUESTS = (
    *(("create", what) for what in ("jobs", "configmaps", "services", "events")),
    *(("get", what) for what in (naming.RUN_PLURAL, "configmaps", "leases")),
    *(("list", what) for what in ("jobs", "pods", naming.RUN_PLURAL)),
    ("patch", f"{naming.RUN_PLURAL}/status"),
    ("delete", "jobs"),
    ("update", "leases"),
)
OPTIONAL = (("create", "events"), ("list", "events"))
"""Requests that the operator can do without."""
ODD_CONTENT = (
    "",
    "null",
    "[]",
    "a proxy's page",
    "[" * 5000,
    '{"items": null}',
    '{"items": 3}',
    '{"items": ["x"]}',
    '{"items": [{}], "metadata": null}',
    '{"items": [{"involvedObject": [], "message": {}}], "metadata": {}}',
    '{"items": [{"involvedObject": {"uid": 4}, "lastTimestamp": 7}], "metadata": {"continue": ""}}',
)
EFFECTS: dict[str, dict[str, Any]] = {
    "409": {"status": 409, "reason": "Conflict"},
    "410": {"status": 410, "reason": "Expired"},
    "429": {"status": 429, "retry_after": 3},
    "429 until a date": {"status": 429, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"},
    "429 for no time": {"status": 429, "retry_after": "soon"},
    "500": {"status": 500},
    "500 after it took effect": {"status": 500, "committed": True},
    "503": {"status": 503},
    "504 after it took effect": {"status": 504, "committed": True},
    "connection lost": {"drop_connection": True},
    "answer lost": {"drop_connection": True, "committed": True},
    "slow": {"delay": 4.0},
    "timeout": {"delay": 25.0},
    "timeout after it took effect": {"delay": 25.0, "committed": True, "drop_connection": True},
}


# --- the way to the API server --------------------------------------------------------------------------------------


def is_an_operators(request: RecordedRequest) -> bool:
    """Whether an operator asks, and none of its watches."""
    return request.user_agent == naming.FIELD_MANAGER


def refuse(world: World, rng: Random) -> bool:
    """The next requests of a kind go wrong in some way."""
    verb, resource = rng.choice(REQUESTS)
    effect = rng.choice(sorted(EFFECTS))
    fault = Fault(verb=verb, resource=resource, when=is_an_operators, count=rng.randint(1, 3), **EFFECTS[effect])
    world.armed.append((f"{verb} answered with {effect}", world.server.faults.add(fault)))
    return True


def answer_oddly(world: World, rng: Random) -> bool:
    """The next answers of an API that the operator can do without are not what that API promises."""
    verb, resource = rng.choice(OPTIONAL)
    content = rng.choice(ODD_CONTENT)
    fault = Fault(verb=verb, resource=resource, when=is_an_operators, count=rng.randint(1, 3), content=content)
    world.armed.append((f"{verb} {resource} answered oddly", world.server.faults.add(fault)))
    return True


def outage(world: World, rng: Random) -> bool:
    """The API server, or etcd behind it, is away for up to 40 s; every connection and watch is cut."""
    if not world.network.reachable:
        return False

    async def pass_by() -> None:
        world.network.reachable = False
        world.network.cut()
        await asyncio.sleep(rng.choice((1.0, 5.0, 30.0, 40.0)))
        world.network.reachable = True

    world.spawn(pass_by())
    return True


def partition(world: World, rng: Random) -> bool:
    """One operator is cut off for a while; the other one may take over."""
    replica = an_operator(world, rng)
    if replica is None or not replica.wire.connected:
        return False
    seconds = rng.uniform(5, 60)

    async def pass_by() -> None:
        replica.wire.connected = False
        await asyncio.sleep(seconds)
        replica.wire.connected = True

    world.spawn(pass_by())
    return True


# --- watches --------------------------------------------------------------------------------------------------------


def cut_watches(world: World, rng: Random) -> bool:
    """The watches of one kind are cut."""
    world.server.drop_watches(rng.choice(KINDS))
    return True


def watch_gap(world: World, rng: Random) -> bool:
    """Watches are away while history is compacted: what was deleted meanwhile is never told."""
    kind = rng.choice(KINDS)

    async def pass_by() -> None:
        with world.server.watches_down(kind):
            await asyncio.sleep(rng.uniform(5, 20))
            delete_something(world, rng)
            await asyncio.sleep(rng.uniform(1, 5))
            world.server.compact()

    world.spawn(pass_by())
    return True


async def unheard_deletion(world: World, *, after: float) -> None:
    """A Job is deleted by hand while watches are away and history is compacted: no watch ever tells of it."""
    await asyncio.sleep(after)
    with world.server.watches_down("jobs"), world.server.watches_down("pods"):
        await asyncio.sleep(1)
        if not delete_job(world, world.rng("gap")):
            raise AssertionError("there is no Job to delete: the script does not last long enough")
        await asyncio.sleep(5)
        world.server.compact()


def late_events(world: World, rng: Random) -> bool:
    """The events of one kind come late."""
    kind, seconds = rng.choice(KINDS), rng.uniform(1, 20)
    if kind in world.held:
        return False

    async def pass_by() -> None:
        world.held.add(kind)
        with world.server.hold_events(kind):
            await asyncio.sleep(seconds)
        world.held.discard(kind)

    world.spawn(pass_by())
    return True


def dead_watch(world: World, rng: Random) -> bool:
    """A connection dies without a sign."""
    replica = an_operator(world, rng)
    if replica is None:
        return False
    rng.choice(replica.informers).deaf = True
    return True


def watch_error(world: World, rng: Random) -> bool:
    """An ERROR event in the stream; Kopf ends the process for all but 410."""
    world.server.fail_watches(rng.choice(KINDS), code=rng.choice((410, 410, 429, 500)))
    return True
