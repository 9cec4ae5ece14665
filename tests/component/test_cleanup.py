"""Children that have had their time, and a child that somebody takes away too early."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_operator import naming
from lora_operator.naming import Stage, job_name

from tests.builders import CLASS_NAME, NAME, NAMESPACE, trained_text
from tests.component.world import Body, World, an_operator

PREPARE = job_name(NAME, Stage.PREPARE, 1)


def train(number: int) -> str:
    return job_name(NAME, Stage.TRAIN, number)


def edit_class(world: World, **spec: object) -> None:
    """The platform team changes the class."""
    world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": spec})


async def remade(world: World) -> Body:
    """The ConfigMap, as soon as it is there again."""
    await world.server.wait_for(
        lambda: world.server.find("configmaps", world.config_map(), NAMESPACE), what="the ConfigMap"
    )
    return world.server.get("configmaps", world.config_map(), NAMESPACE)


async def test_the_class_says_how_long_children_stay_also_after_the_end(world: World) -> None:
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    before = world.status()
    edit_class(world, jobRetentionSeconds=3600)
    world.pass_time(3000)
    await world.settle()
    assert world.jobs() == [PREPARE, train(1)]
    edit_class(world, jobRetentionSeconds=60)
    await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
    assert world.server.find("configmaps", world.config_map(), NAMESPACE) is None
    await world.settle()
    assert world.status() == before


async def test_jobs_of_attempts_long_failed_go_while_the_run_goes_on(world: World) -> None:
    edit_class(world, failedJobsHistoryLimit=1)
    world.apply()
    await world.prepare()
    for attempt in (1, 2, 3):
        await world.fail_training(attempt)
        await world.pod(Stage.TRAIN, attempt + 1)
    await world.server.wait_for(lambda: world.jobs() == [PREPARE, train(3), train(4)], what="the end of old Jobs")
    await world.train(4)
    await world.until("AdapterPublished")
    assert [entry["number"] for entry in world.status()["attempts"]] == [1, 1, 2, 3, 4]
    assert world.created_jobs() == [PREPARE, *map(train, (1, 2, 3, 4))]


async def test_a_config_map_that_a_pod_waits_for_is_made_again_as_it_was(world: World) -> None:
    world.apply()
    await world.prepare()
    pod = await world.pod(Stage.TRAIN)
    before = world.server.get("configmaps", world.config_map(), NAMESPACE)
    world.kubelet.waiting(pod, reason="ContainerCreating")
    await world.until("Starting")
    edit_class(world, image="registry.example/another:2", storage={"workUri": "s3://elsewhere/work"})
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    world.pass_time(11)
    assert (await remade(world))["data"] == before["data"]
    await world.train()
    await world.until("AdapterPublished")
    assert world.created_jobs() == [PREPARE, train(1)]


@pytest.mark.parametrize("works", [True, False])
async def test_an_operator_that_never_saw_the_config_map_makes_it_from_class_and_spec(
    bare_world: World, kubeconfig: Path, works: bool
) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig):
        world.apply()
        await world.prepare()
        pod = await world.pod(Stage.TRAIN)
        before = world.server.get("configmaps", world.config_map(), NAMESPACE)
        if works:
            world.kubelet.start(pod)
            await world.until("Training")
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    async with an_operator(world, kubeconfig):
        assert (await remade(world))["data"] == before["data"]
        world.kubelet.start(pod)
        world.kubelet.terminate(pod, exit_code=0, message=trained_text())
        await world.until("AdapterPublished")
        assert world.created_jobs() == [PREPARE, train(1)]
