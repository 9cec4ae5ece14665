"""Maintenance: what runs goes on, nothing new starts, and all of it starts afterwards."""

from __future__ import annotations

from pathlib import Path

from lora_operator import naming

from tests.builders import CLASS_NAME, NAME
from tests.component.world import World, an_operator


def pause(world: World, *, yes: bool) -> None:
    world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"paused": yes}})


async def test_a_class_is_paused_and_resumed_without_a_restart(world: World) -> None:
    await world.begin_training()
    pause(world, yes=True)
    world.apply("later", output={"uri": "s3://team-a/later"})
    await world.until("ClassPaused", "later")
    await world.train()
    await world.until("AdapterPublished")
    assert [job["metadata"]["name"] for job in world.server.objects("jobs")] == [f"{NAME}-prepare-1", f"{NAME}-train-1"]
    pause(world, yes=False)
    await world.prepare(name="later")


async def test_the_operator_is_paused_by_a_setting(bare_world: World, kubeconfig: Path) -> None:
    bare_world.apply()
    async with an_operator(bare_world, kubeconfig, paused=True):
        await bare_world.until("OperatorPaused")
        assert bare_world.server.objects("jobs") == []
    async with an_operator(bare_world, kubeconfig):
        await bare_world.prepare()
