"""Fair shares: a namespace has so many active runs of a class, and the others wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from lora_operator import naming
from lora_operator.naming import Stage
from lora_operator.planning import line

from tests.builders import NAMESPACE, class_body
from tests.component.world import Body, World, a_world, an_operator

PLACES = 2
RUNS = tuple(f"run-{number}" for number in range(6))


@pytest.fixture
async def shared_world(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose class gives each namespace two places, with an operator that looks at the line often."""
    monkeypatch.setattr(line, "RECHECK", timedelta(seconds=0.2))
    async with a_world(default_class=False) as world, an_operator(world, kubeconfig, workers=16):
        world.server.create(class_body(limits={"activeRunsPerNamespace": PLACES, "maxQueueSeconds": 3600}))
        yield world


def apply_all(world: World) -> None:
    for name in RUNS:
        world.apply(name, output={"uri": f"s3://team-a/{name}"})


def reason(world: World, name: str) -> str | None:
    conditions = world.server.get(naming.RUN_PLURAL, name, NAMESPACE).get("status", {}).get("conditions", [])
    return next((entry["reason"] for entry in conditions if entry["type"] == "Ready"), None)


def active(world: World) -> set[str]:
    """Runs with a Job that is not over."""
    jobs = (job for job in world.server.objects("jobs", NAMESPACE) if not _over(job))
    return {job["metadata"]["labels"][naming.RUN_LABEL] for job in jobs}


def _over(job: Body) -> bool:
    return any(entry["status"] == "True" for entry in job.get("status", {}).get("conditions", []))


def place_in_line(world: World, name: str) -> tuple[str, str]:
    """The key that the line is sorted by. Runs that are applied within one second differ by their uid alone."""
    metadata = world.server.get(naming.RUN_PLURAL, name, NAMESPACE)["metadata"]
    return metadata["creationTimestamp"], metadata["uid"]


async def all_told(world: World) -> set[str]:
    """The runs that are active, once the others wait."""

    def told() -> bool:
        return sorted(str(reason(world, name)) for name in RUNS) == ["Preparing"] * PLACES + ["WaitingForTurn"] * 4

    await world.server.wait_for(told, timeout=60, what="all but two to wait")
    return active(world)


async def test_runs_that_are_applied_at_once_share_the_places(shared_world: World) -> None:
    apply_all(shared_world)
    assert len(await all_told(shared_world)) == PLACES


async def test_never_are_more_active_than_may_be_and_all_have_their_turn(shared_world: World) -> None:
    most = 0

    def watch(*_: object) -> None:
        nonlocal most
        most = max(most, len(active(shared_world)))

    shared_world.server.store.listeners.append(watch)
    async with shared_world.kind_cluster():
        apply_all(shared_world)
        await asyncio.gather(*(shared_world.until("AdapterPublished", name) for name in RUNS))
    assert 1 <= most <= PLACES


async def test_a_suspended_run_gives_its_place_back_and_stands_in_line_again(shared_world: World) -> None:
    apply_all(shared_world)
    first, second = sorted(await all_told(shared_world))
    shared_world.edit(first, suspend=True)
    await shared_world.until("SuspendedByUser", first)
    await shared_world.server.wait_for(lambda: len(active(shared_world)) == PLACES, timeout=60, what="the next in line")
    shared_world.edit(first, suspend=False)
    await shared_world.until("WaitingForTurn", first)
    oldest = min(set(RUNS) - active(shared_world), key=lambda name: place_in_line(shared_world, name))
    shared_world.edit(second, suspend=True)
    await shared_world.until("Preparing", oldest)
    for name in set(RUNS) - {first}:
        shared_world.edit(name, suspend=True)
    await shared_world.until("Preparing", first)


async def test_a_wait_that_is_too_long_ends_the_run(shared_world: World) -> None:
    apply_all(shared_world)
    waiting = sorted(set(RUNS) - await all_told(shared_world))
    shared_world.clock.advance(3601)
    for name in waiting:
        status = await shared_world.until("QueueTimeout", name)
        assert status["queuedSeconds"] >= 3600
    assert len(active(shared_world)) == PLACES
    assert shared_world.condition("Finished", waiting[0])["status"] == "True"


async def test_a_job_that_waits_in_a_queue_for_too_long_is_deleted_before_the_run_fails(shared_world: World) -> None:
    shared_world.apply("run-0", queueName="gpus", output={"uri": "s3://team-a/run-0"})
    await shared_world.prepare(name="run-0")
    await shared_world.pod(Stage.TRAIN, name="run-0")
    shared_world.server.patch("jobs", "run-0-train-1", NAMESPACE, merge={"spec": {"suspend": True}})
    await shared_world.until("Queued", "run-0")
    shared_world.pass_time(3601, "run-0")
    await shared_world.until("QueueTimeout", "run-0")
    assert active(shared_world) == set()
