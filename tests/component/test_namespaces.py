"""Which namespaces an operator serves: some, all but some, and two operators beside each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lora_operator import naming
from lora_operator.naming import Stage

from tests.builders import CLASS_NAME, NAME, NAMESPACE, class_body, run_body
from tests.component.world import CRDS, World, a_world, an_operator
from tests.fakes import kueue

OTHER, OTHERS_OPERATOR = "team-b", "lora-operator-team-b"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world with Kueue, and another namespace with the namespace of another operator."""
    async with a_world(crds=[*CRDS, *kueue.CRDS]) as world:
        for name in (OTHER, OTHERS_OPERATOR):
            world.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield world


def others_reasons(world: World) -> list[str]:
    """The reasons of the conditions that the run in the other namespace has."""
    status = world.server.get(naming.RUN_PLURAL, NAME, OTHER).get("status", {})
    return [condition["reason"] for condition in status.get("conditions", ())]


def unfinished(world: World) -> int | None:
    """How many runs the status of the class counts."""
    return world.server.get(naming.CLASS_PLURAL, CLASS_NAME).get("status", {}).get("unfinishedRuns")


@pytest.mark.parametrize("scope", [{"watch_namespaces": [NAMESPACE]}, {"exclude_namespaces": [OTHER]}], ids=str)
async def test_a_run_in_another_namespace_is_left_alone(world: World, kubeconfig: Path, scope: dict[str, Any]) -> None:
    world.server.create(run_body(namespace=OTHER))
    async with an_operator(world, kubeconfig, resync_seconds=1, **scope):
        world.apply()
        await world.until("Preparing")
        # An event of its own, one of the class, which concerns all runs, and a resync: none concerns this run.
        world.server.patch(naming.RUN_PLURAL, NAME, OTHER, merge={"spec": {"retryLimit": 2}})
        world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"limits": {"r": 64}}})
        lists = len(lists_of_runs(world))
        await world.server.wait_for(lambda: len(lists_of_runs(world)) > lists, what="a resync")
        await world.settle()
    assert others_reasons(world) == []
    assert [request.path for request in world.server.requests if request.namespace == OTHER] == []
    assert world.server.objects("jobs", OTHER) == []


def lists_of_runs(world: World) -> list[str]:
    return [
        request.path
        for request in world.server.requests
        if request.verb == "list" and request.resource.startswith(naming.RUN_PLURAL)
    ]


async def test_nothing_is_asked_outside_the_namespaces_that_are_served(world: World, kubeconfig: Path) -> None:
    """Its rights suffice too: a world refuses what its operators may not do, and says so in the end."""
    queue = "gpus"
    selector = {"matchExpressions": [{"key": "closed", "operator": "DoesNotExist"}]}
    offered = class_body("offered", default=False, namespaceSelector=selector, limits={"nodes": 2})
    world.server.create(offered)
    async with an_operator(world, kubeconfig, watch_namespaces=[NAMESPACE], queue_poll_seconds=0.1):
        world.apply(className="offered", queueName=queue)
        await world.prepare()
        await world.pod(Stage.TRAIN)
        kueue.suspend(world.server, f"{NAME}-train-1", NAMESPACE)
        kueue.line_up(world.server, queue, NAMESPACE, jobs=(f"{NAME}-train-1",))
        await world.server.wait_for(lambda: "position 1" in world.condition("Ready")["message"])
        kueue.suspend(world.server, f"{NAME}-train-1", NAMESPACE, yes=False)
        await world.train()
        await world.until("AdapterPublished")
        world.pass_time(8 * 24 * 3600)
        await world.server.wait_for(lambda: world.jobs() == [], what="the end of the Jobs")
        world.apply("wide", className="offered", parallelism={"nodes": 2}, output={"uri": "s3://team-a/wide"})
        await world.prepare(name="wide")
        await world.pod(Stage.TRAIN, name="wide")
    asked = {(request.verb, request.resource, request.subresource) for request in world.server.requests}
    assert {
        ("get", "namespaces", ""),
        ("create", "services", ""),
        ("delete", "jobs.batch", ""),
        ("delete", "configmaps", ""),
        ("list", f"workloads.{kueue.GROUP}", ""),
        ("get", f"localqueues.{kueue.VISIBILITY}", "pendingworkloads"),
        ("watch", f"{naming.CLASS_PLURAL}.{naming.GROUP}", ""),
    } <= asked
    clusterwide = {request.resource for request in world.server.requests if request.resource and not request.namespace}
    assert clusterwide == {f"{naming.CLASS_PLURAL}.{naming.GROUP}", "namespaces"}
    assert "status" not in world.server.get(naming.CLASS_PLURAL, CLASS_NAME), "its runs are not all runs of the class"


async def test_two_operators_share_a_cluster(world: World, kubeconfig: Path) -> None:
    async with (
        an_operator(world, kubeconfig, exclude_namespaces=[OTHER]),
        an_operator(world, kubeconfig, replicas=2, watch_namespaces=[OTHER], namespace=OTHERS_OPERATOR),
    ):
        world.apply()
        world.server.create(run_body(namespace=OTHER, output={"uri": "s3://team-b/adapters"}))
        await world.until("Preparing")
        await world.server.wait_for(lambda: "Preparing" in others_reasons(world), what="the other's run")
        await world.server.wait_for(lambda: unfinished(world) == 1, what="the count of runs, without the other's")
        await world.settle()
    assert world.created_jobs() == [f"{NAME}-prepare-1"] * 2
    leases = [lease["metadata"]["namespace"] for lease in world.server.objects("leases")]
    assert sorted(leases) == sorted(["lora-operator-system", OTHERS_OPERATOR])
    watches = [request.query for request in world.server.requests if request.verb == "watch" and not request.namespace]
    selectors = {query.get("fieldSelector") for query in watches}
    assert selectors == {None, f"metadata.namespace!={OTHER}"}


async def test_operators_that_serve_the_same_run_by_mistake_start_nothing_twice(world: World, kubeconfig: Path) -> None:
    async with (
        an_operator(world, kubeconfig),
        an_operator(world, kubeconfig, replicas=2, watch_namespaces=[NAMESPACE], namespace=OTHERS_OPERATOR),
    ):
        world.apply()
        async with world.kind_cluster():
            await world.until("AdapterPublished")
        await world.settle()
    assert world.created_jobs() == [f"{NAME}-prepare-1", f"{NAME}-train-1"]
