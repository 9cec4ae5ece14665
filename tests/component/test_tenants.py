"""What tenants create, replace and delete beside their runs: none of it starts a pod that the class does not allow, and
none of it keeps the runs of others from starting."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lora_operator import naming
from lora_operator.naming import Stage
from lora_operator.planning.pod_problems import POD_PATIENCE

from tests.builders import NAME, NAMESPACE, class_spec, run_body
from tests.component.world import Body, World, an_operator

PREPARE, TRAIN, TRAIN_2 = f"{NAME}-prepare-1", f"{NAME}-train-1", f"{NAME}-train-2"
OTHER_NAMESPACE = "team-b"
FORGED_CLASS = class_spec(
    image="registry.example/tenants-own:1", train={"priorityClassName": "system-node-critical"}, limits={"gpus": 16}
)

SPREAD = {"limits": {"nodes": 2}, "train": {"placement": "PodByPod"}}
"""Of a class that lets runs have two nodes without a queue."""


def own(world: World, name: str = NAME) -> Body:
    """Metadata that names the run as its controller."""
    run = world.run(name)["metadata"]
    owner = {"apiVersion": naming.API_VERSION, "kind": naming.RUN_KIND, "name": name, "uid": run["uid"]}
    return {"namespace": NAMESPACE, "ownerReferences": [owner | {"controller": True}]}


def forge_config_map(world: World, **data: str) -> Body:
    """A tenant creates the ConfigMap of a run, with a class of their own in it."""
    run_file = json.dumps({"model": {"name": "any/model"}})
    data = {"class.json": json.dumps(FORGED_CLASS), "className": "h100", "run.json": run_file} | data
    metadata = own(world) | {"name": world.config_map()}
    return world.server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def replace_config_map(world: World, **data: str) -> Body:
    """A tenant deletes the ConfigMap, which is immutable, and creates another one."""
    kept = world.server.get("configmaps", world.config_map(), NAMESPACE)
    assert kept["immutable"] is True
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    forge_config_map(world, **(kept["data"] | {"class.json": json.dumps(FORGED_CLASS)} | data))
    return kept


def images(world: World) -> set[str]:
    """The images of all Jobs of the run."""
    jobs = world.server.objects("jobs", NAMESPACE)
    return {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in jobs}


# --- what a run is resolved against -------------------------------------------------------------------------------


async def test_a_forged_config_map_is_no_class_of_ones_own(world: World) -> None:
    world.apply(suspend=True)
    await world.until("SuspendedByUser")
    forge_config_map(world)
    world.edit(suspend=False)
    await world.until("NameTaken")
    assert f"ConfigMap {world.config_map()} names this LoraFineTune as its owner" in world.condition("Ready")["message"]
    await world.settle()
    assert world.created_jobs() == []
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    assert images(world) == {class_spec()["image"]}


async def test_a_forged_config_map_does_not_make_an_invalid_run_valid(world: World) -> None:
    """The checks of the class come first, whatever exists."""
    world.apply(suspend=True, parallelism={"gpus": 16})
    await world.until("PolicyViolation")
    forge_config_map(world)
    world.edit(suspend=False)
    await world.settle()
    assert (world.reason(), world.created_jobs()) == ("PolicyViolation", [])


async def test_forged_jobs_and_config_maps_do_not_make_a_run_one_that_has_begun(world: World) -> None:
    world.apply(suspend=True)
    await world.until("SuspendedByUser")
    forge_config_map(world)
    labels = {
        naming.MANAGED_BY_LABEL: naming.MANAGED_BY,
        naming.RUN_LABEL: NAME,
        naming.RUN_UID_LABEL: world.run()["metadata"]["uid"],
        naming.STAGE_LABEL: "prepare",
        naming.ATTEMPT_LABEL: "1",
    }
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "tenants-own"}]}}
    metadata = own(world) | {"name": PREPARE, "labels": labels}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    world.server.create(job)
    await world.settle()
    assert world.status()["attempts"] == []
    world.edit(suspend=False)
    # The tenant's own Job counts as prepare, but nothing comes of the tenant's own class.
    await world.prepare()
    await world.until("NameTaken")
    assert world.created_jobs() == [PREPARE]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_replaced_config_map_starts_no_pod(bare_world: World, kubeconfig: Path, restarted: bool) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig):
        await world.begin_training()
        if not restarted:
            await fail_after_replacement(world)
    if restarted:
        async with an_operator(world, kubeconfig):
            await fail_after_replacement(world)


async def fail_after_replacement(world: World) -> None:
    """The ConfigMap is replaced, what is at work goes on, and the next attempt waits for the true ConfigMap."""
    kept = replace_config_map(world, **{"run.json": "{}"})
    world.poke()
    await world.settle()
    assert world.reason() == "Training", "what is at work goes on"
    await world.fail_training()
    await world.until("NameTaken")
    assert world.jobs() == [PREPARE, TRAIN]
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    await world.pod(Stage.TRAIN, 2)
    assert world.server.get("configmaps", world.config_map(), NAMESPACE)["data"] == kept["data"]
    await world.train(2)
    await world.until("AdapterPublished")
    assert images(world) == {class_spec()["image"]}


async def test_a_lost_config_map_is_not_created_again_from_a_changed_class(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig):
        await world.begin_training()
    kept = world.server.get("configmaps", world.config_map(), NAMESPACE)
    world.server.delete("configmaps", world.config_map(), NAMESPACE)
    world.server.patch(naming.CLASS_PLURAL, "h100", merge={"spec": {"image": "registry.example/another:2"}})
    async with an_operator(world, kubeconfig):
        await world.fail_training()
        await world.until("ConfigMapLost")
        assert world.server.find("configmaps", world.config_map(), NAMESPACE) is None
        metadata = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
        world.server.create(kept | {"metadata": metadata})
        await world.train(2)
        await world.until("AdapterPublished")
        assert world.created_jobs() == [PREPARE, TRAIN, TRAIN_2]


async def test_a_class_that_changes_after_the_record_but_before_the_config_map(
    bare_world: World, kubeconfig: Path
) -> None:
    """As when the operator died between the two."""
    world = bare_world
    world.apply()
    world.server.patch(
        naming.RUN_PLURAL, NAME, NAMESPACE, merge={"status": {"resolvedDigest": "0" * 64}}, subresource="status"
    )
    async with an_operator(world, kubeconfig):
        await world.until("Preparing")
        assert world.status()["resolvedDigest"] != "0" * 64
        assert world.created_jobs() == [PREPARE]


async def test_a_run_that_an_earlier_version_started_goes_on(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig):
        await world.begin_training()
    digest = world.status()["resolvedDigest"]
    without = {"status": {"resolvedDigest": None}}
    world.server.patch(naming.RUN_PLURAL, NAME, NAMESPACE, merge=without, subresource="status")
    world.server.patch(naming.CLASS_PLURAL, "h100", merge={"spec": {"image": "registry.example/another:2"}})
    async with an_operator(world, kubeconfig):
        await world.server.wait_for(lambda: world.status().get("resolvedDigest") == digest, what="the record")
        await world.fail_training()
        await world.train(2)
        await world.until("AdapterPublished")
        assert images(world) == {class_spec()["image"]}


# --- outputs --------------------------------------------------------------------------------------------------------


def apply_elsewhere(world: World, name: str, **spec: Any) -> None:
    """A run of another team."""
    if world.server.find("namespaces", OTHER_NAMESPACE) is None:
        world.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER_NAMESPACE}})
    world.server.create(run_body(name, namespace=OTHER_NAMESPACE, **spec))


@pytest.mark.parametrize(
    ("squatter", "reason"), [({"className": "typo"}, "ClassNotFound"), ({"suspend": True}, "SuspendedByUser")]
)
async def test_a_run_that_cannot_start_holds_no_output(world: World, squatter: Body, reason: str) -> None:
    world.apply("squatter", **squatter)
    await world.until(reason, "squatter")
    world.clock.advance(2)
    world.apply("worker")
    await world.until("Preparing", "worker")
    assert "OutputInUse" not in world.story("worker")


async def test_a_run_that_can_start_again_waits_for_the_one_that_has_begun(world: World) -> None:
    world.apply("older", suspend=True)
    await world.until("SuspendedByUser", "older")
    world.clock.advance(2)
    world.apply("younger")
    await world.until("Preparing", "younger")
    world.edit("older", suspend=False)
    await world.until("OutputInUse", "older")
    world.edit("younger", suspend=True)
    await world.until("SuspendedByUser", "younger")
    await world.settle()
    assert (world.reason("older"), world.jobs("older")) == ("OutputInUse", []), "it has begun, and goes on later"
    world.server.delete(naming.RUN_PLURAL, "younger", NAMESPACE)
    await world.until("Preparing", "older")


async def test_the_runs_of_other_namespaces_are_not_named(world: World) -> None:
    apply_elsewhere(world, "confidential")
    jobs = "jobs"
    await world.server.wait_for(lambda: bool(world.server.objects(jobs, OTHER_NAMESPACE)), what="the first run's Job")
    world.apply("worker")
    await world.until("OutputInUse", "worker")
    said = world.condition("Ready", "worker")["message"]
    assert "is also the output of a LoraFineTune of another namespace" in said
    told = json.dumps([world.status("worker"), world.server.objects("events", NAMESPACE)])
    assert "confidential" not in told
    assert OTHER_NAMESPACE not in told


async def test_a_run_wakes_only_those_that_wait_for_its_output(world: World, caplog: pytest.LogCaptureFixture) -> None:
    over = [f"over-{number}" for number in range(3)]
    async with world.kind_cluster():
        for name in over:
            world.apply(name)
            await world.until("AdapterPublished", name)
    world.apply("holder")
    await world.until("Preparing", "holder")
    world.clock.advance(2)
    world.apply("waiter")
    await world.until("OutputInUse", "waiter")
    await asyncio.sleep(2 * POD_PATIENCE.total_seconds())  # a timer may be left over from when a Job had no pod yet
    caplog.set_level(logging.DEBUG, logger="lora_operator")
    await world.prepare(name="holder")
    await world.start(Stage.TRAIN, name="holder")
    await world.until("Training", "holder")
    await world.settle()
    assert set(reconciles(caplog)) == {f"{NAMESPACE}/holder"}, "it keeps its output"
    await world.train(name="holder")
    await world.until("Preparing", "waiter")
    assert set(reconciles(caplog)) == {f"{NAMESPACE}/holder", f"{NAMESPACE}/waiter"}


def reconciles(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """How often each run was reconciled."""
    return Counter(vars(line)["run"] for line in caplog.records if line.getMessage() == "reconciled")


# --- names --------------------------------------------------------------------------------------------------------


async def test_a_name_is_tried_again_as_soon_as_a_watch_reports_that_it_is_free(world: World) -> None:
    """A Job that a deleted run of the same name left."""
    labels = {naming.MANAGED_BY_LABEL: naming.MANAGED_BY, naming.RUN_LABEL: NAME, naming.RUN_UID_LABEL: "predecessor"}
    labels |= {naming.STAGE_LABEL: "prepare", naming.ATTEMPT_LABEL: "1"}
    owner = {"apiVersion": naming.API_VERSION, "kind": naming.RUN_KIND, "name": NAME, "uid": "predecessor"}
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    metadata = {"name": PREPARE, "namespace": NAMESPACE, "labels": labels}
    metadata |= {"ownerReferences": [owner | {"controller": True}], "finalizers": ["example.com/kept"]}
    world.server.gc_paused = True
    world.server.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}})
    world.apply()
    await world.until("NameTaken")
    world.pass_time(3600)
    await world.settle()
    freed = world.clock()
    world.server.delete("jobs", PREPARE, NAMESPACE)
    world.server.patch("jobs", PREPARE, NAMESPACE, merge={"metadata": {"finalizers": []}})
    await world.until("Preparing")
    assert (world.clock() - freed).total_seconds() < 30, "otherwise it looks again after a minute"


async def test_a_child_that_others_own_survives_the_end_of_the_run(world: World) -> None:
    world.server.patch(naming.CLASS_PLURAL, "h100", merge={"spec": SPREAD})
    await world.settle()
    world.apply(parallelism={"nodes": 2}, jobRetentionSeconds=60)
    async with world.kind_cluster():
        await world.until("AdapterPublished")
    foreign = []
    for kind, name, spec in (
        ("ConfigMap", world.config_map(), {"data": {"of": "somebody else"}}),
        ("Service", f"nodes-{NAME}", {"spec": {"clusterIP": "None"}}),
    ):
        resource = f"{kind.lower()}s"
        world.server.delete(resource, name, NAMESPACE)
        metadata = {"name": name, "namespace": NAMESPACE}
        world.server.create({"apiVersion": "v1", "kind": kind, "metadata": metadata} | spec)
        foreign.append((resource, name))
    world.pass_time(61)
    await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
    await world.settle()
    for resource, name in foreign:
        assert world.server.find(resource, name, NAMESPACE) is not None, f"{name} is not the run's"
