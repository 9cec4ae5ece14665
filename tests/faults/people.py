"""A person who does what the runs ask for: what needs a person and does not say so is never done."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from tests.builders import NAMESPACE
from tests.faults.cluster_faults import disturb
from tests.faults.invariants import terminal
from tests.faults.trainers import Work, attempt_of
from tests.faults.world import World

LOOK_SECONDS = 30.0


async def attend(world: World, rng: Random) -> None:
    """Look at all runs now and then, and do what their messages say."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        asked = {run["metadata"]["uid"]: _asks_for(run) for run in world.runs()}
        for work in tuple(world.trainers.working.values()):
            if world.trainers.there(work.pod) is not None:
                _answer(world, work, asked.get(attempt_of(work.pod)[0]), rng)


def _asks_for(run: dict[str, Any]) -> str | None:
    """What a run that is not over needs a person for."""
    conditions = run.get("status", {}).get("conditions", ())
    stalled = next((entry["reason"] for entry in conditions if entry["type"] == "Stalled"), "")
    return None if terminal(run) else stalled


def _answer(world: World, work: Work, asked: str | None, rng: Random) -> None:
    """`asked` is None of a run that is over or gone: nobody waits for its pods, and nodes come back at some time."""
    if work.lost and asked in ("NodeLost", None):
        if rng.random() < 0.5:
            world.trainers.come_back(work)
        else:
            world.trainers.kubelet.lose(work.pod)
    elif work.over and work.beside and asked == "SidecarRunning":
        disturb(world, work.pod, "PodLost", "Disrupted")
        world.server.delete("pods", work.pod["metadata"]["name"], NAMESPACE)
