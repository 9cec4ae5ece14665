"""Garbage collection by owner references, propagation policies, namespaces."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.fakes.apiserver import FakeApiServer
from tests.unit.fakes.samples import JOBS, LFT, call, configmap, fine_tune, job, owner_reference


def names(server: FakeApiServer, kind: str) -> list[str]:
    return [obj["metadata"]["name"] for obj in server.objects(kind)]


async def test_background_deletion_takes_the_whole_chain(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    owner = server.create(fine_tune())
    middle = server.create(configmap("middle", owner=owner))
    server.create(configmap("leaf", owner=middle))
    server.create(configmap("bystander"))
    await call(http, "DELETE", f"{LFT}/run")
    assert names(server, "lorafinetunes") == []
    await server.wait_for(lambda: names(server, "configmaps") == ["bystander"])


async def test_foreground_deletion_waits_for_blocking_dependents(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    owner = server.create(fine_tune())
    server.create(configmap("child", owner=owner, finalizers=["a/b"]))
    _, marked = await call(http, "DELETE", f"{LFT}/run", propagationPolicy="Foreground")
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    await server.wait_for(lambda: server.get("configmaps", "child", "default")["metadata"].get("deletionTimestamp"))
    assert names(server, "lorafinetunes") == ["run"]
    server.patch("configmaps", "child", "default", merge={"metadata": {"finalizers": None}})
    await server.wait_for(lambda: not server.objects("lorafinetunes"))


async def test_deleting_a_job_orphans_its_pods_unless_told_otherwise(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    owner = server.create(job())
    server.create(configmap("child", owner=owner))
    await call(http, "DELETE", f"{JOBS}/train")
    await server.wait_for(lambda: not server.objects("jobs"))
    assert "ownerReferences" not in server.get("configmaps", "child", "default")["metadata"]


async def test_a_child_created_after_its_owner_went_is_collected(server: FakeApiServer) -> None:
    owner = server.create(fine_tune())
    server.delete("lorafinetunes", "run", "default")
    server.create(configmap("late", owner=owner))
    await server.wait_for(lambda: not server.objects("configmaps"))


async def test_a_second_owner_keeps_the_child(server: FakeApiServer) -> None:
    first, second = server.create(fine_tune("a")), server.create(fine_tune("b"))
    references = [owner_reference(first), owner_reference(second)]
    server.create(configmap("child", ownerReferences=references))
    server.delete("lorafinetunes", "a", "default")
    await server.wait_for(
        lambda: server.get("configmaps", "child", "default")["metadata"]["ownerReferences"] == references[1:]
    )


async def test_a_namesake_with_another_uid_is_no_owner(server: FakeApiServer) -> None:
    owner = server.create(fine_tune())
    server.gc_paused = True
    server.create(configmap("child", owner=owner))
    server.delete("lorafinetunes", "run", "default")
    server.create(fine_tune())
    await asyncio.sleep(0)
    assert names(server, "configmaps") == ["child"], "the collector is paused"
    server.gc_paused = False
    server.create(configmap("nudge", owner=server.get("lorafinetunes", "run", "default")))
    await server.wait_for(lambda: names(server, "configmaps") == ["nudge"])


async def test_a_terminating_namespace_takes_nothing_new_and_is_emptied(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    server.create(configmap("a", finalizers=["a/b"]))
    server.delete("namespaces", "default")
    status, body = await call(http, "POST", LFT, fine_tune())
    assert (status, body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    await server.wait_for(lambda: server.get("configmaps", "a", "default")["metadata"].get("deletionTimestamp"))
    server.patch("configmaps", "a", "default", merge={"metadata": {"finalizers": None}})
    await server.wait_for(lambda: not server.objects("namespaces"))
