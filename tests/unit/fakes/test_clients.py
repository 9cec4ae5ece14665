"""The clients that the operator is made of, against the fake: Kopf as informer, kubernetes.aio as gateway.

The gateway passes plain dictionaries, which the client's annotations do not allow: hence `Any` for its APIs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kopf
import pytest
from kubernetes.aio import client, config

from tests.fakes.apiserver import FakeApiServer
from tests.fakes.faults import Fault
from tests.fakes.kubelet import Kubelet
from tests.fakes.operator_thread import running_operator
from tests.unit.fakes.samples import fine_tune, job

MANAGED = "app.kubernetes.io/managed-by=lora-operator"
GROUP = "lora-operator.io"
CUSTOM: dict[str, Any] = {"group": GROUP, "version": "v1beta1", "namespace": "default", "plural": "lorafinetunes"}
APPLY: dict[str, Any] = {
    "field_manager": "lora-operator",
    "force": True,
    "_content_type": "application/apply-patch+yaml",
}

Seen = list[tuple[str | None, str]]


def managed_job(name: str) -> dict[str, Any]:
    body = job(name)
    body["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "lora-operator"}
    return body


def registry_of(server: FakeApiServer, seen: Seen) -> kopf.OperatorRegistry:
    """An operator that notes every event of fine-tunes and Jobs."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=server.url)

    @kopf.on.event(GROUP, "v1beta1", "lorafinetunes", registry=registry)
    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def note(event: kopf.RawEvent, name: str | None, **_: Any) -> None:
        seen.append((event["type"], name or ""))

    return registry


def quick_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.reconnect_backoff = 0.01
    settings.networking.error_backoffs = [0.02] * 100
    settings.watching.label_selectors["batch", "v1", "jobs"] = MANAGED
    settings.queueing.idle_timeout = 0.05
    return settings


@pytest.fixture
async def seen(server: FakeApiServer) -> AsyncIterator[Seen]:
    """What a running Kopf operator has seen; the operator watches both resources when the test begins."""
    noted: Seen = []
    async with running_operator(registry=registry_of(server, noted), settings=quick_settings()):
        await server.wait_for(lambda: watching(server), what="the operator's watches")
        yield noted


def watching(server: FakeApiServer) -> bool:
    return all(server.hub.open_streams(key) == 1 for key in (f"lorafinetunes.{GROUP}", "jobs.batch"))


async def test_kopf_sees_the_life_of_objects(server: FakeApiServer, seen: Seen) -> None:
    server.create(fine_tune())
    await server.wait_for(lambda: ("ADDED", "run") in seen)
    server.patch("lorafinetunes", "run", "default", merge={"spec": {"suspend": True}})
    await server.wait_for(lambda: ("MODIFIED", "run") in seen)
    server.delete("lorafinetunes", "run", "default")
    await server.wait_for(lambda: ("DELETED", "run") in seen)
    assert server.writes() == [], "an informer writes nothing"
    assert server.violations == []


async def test_kopfs_label_selector_is_applied_by_the_server(server: FakeApiServer, seen: Seen) -> None:
    server.create(job("foreign"))
    server.create(managed_job("ours"))
    await server.wait_for(lambda: ("ADDED", "ours") in seen)
    server.patch("jobs", "ours", "default", merge={"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
    await server.wait_for(lambda: ("DELETED", "ours") in seen)
    assert "foreign" not in {name for _, name in seen}
    queries = [request.query["labelSelector"] for request in server.requests if request.resource == "jobs.batch"]
    assert set(queries) == {MANAGED}


async def test_kopf_survives_a_dropped_watch_without_loss(server: FakeApiServer, seen: Seen) -> None:
    lists = sum(request.verb == "list" for request in server.requests)
    with server.watches_down():
        server.create(fine_tune("in-the-gap"))
        server.create(managed_job("in-the-gap"))
        await asyncio.sleep(0.05)
        assert seen == []
    await server.wait_for(lambda: seen.count(("ADDED", "in-the-gap")) == 2)
    assert sum(request.verb == "list" for request in server.requests) == lists, "it resumed from its resourceVersion"


async def test_kopf_relists_after_410_and_never_hears_of_the_deletion(server: FakeApiServer, seen: Seen) -> None:
    server.create(fine_tune("deleted"))
    server.create(fine_tune("survivor"))
    await server.wait_for(lambda: len(seen) == 2)
    with server.watches_down("lorafinetunes"):
        server.delete("lorafinetunes", "deleted", "default")
        server.compact()
    await server.wait_for(lambda: (None, "survivor") in seen, what="the relist")
    await server.wait_for(lambda: watching(server))
    assert ("DELETED", "deleted") not in seen


async def test_kopf_survives_an_error_event_410(server: FakeApiServer, seen: Seen) -> None:
    server.fail_watches("lorafinetunes", code=410)
    server.create(fine_tune())
    await server.wait_for(lambda: "run" in {name for _, name in seen})


async def test_any_other_error_event_ends_kopf(server: FakeApiServer, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        async with running_operator(registry=registry_of(server, []), settings=quick_settings()):
            await server.wait_for(lambda: watching(server))
            server.fail_watches(code=500)
            await server.wait_for(lambda: "multitasker has failed" in caplog.text)

    with pytest.raises(Exception, match="Error in the watch-stream"):
        await broken()


async def test_kopf_bears_an_api_server_that_is_away(server: FakeApiServer, seen: Seen) -> None:
    with server.outage():
        await asyncio.sleep(0.05)
    server.faults.add(Fault(verb="watch", status=503, count=2))
    server.create(fine_tune())
    await server.wait_for(lambda: ("ADDED", "run") in seen)


@pytest.fixture
async def api(server: FakeApiServer, tmp_path: Path) -> AsyncIterator[client.ApiClient]:
    configuration = client.Configuration()
    await config.load_kube_config(str(server.kubeconfig(tmp_path / "config")), client_configuration=configuration)
    async with client.ApiClient(configuration) as running:
        yield running


async def test_the_official_client_creates_lists_and_applies_status(
    server: FakeApiServer, api: client.ApiClient
) -> None:
    custom: Any = client.CustomObjectsApi(api)
    created = await custom.create_namespaced_custom_object(**CUSTOM, body=fine_tune())
    assert created["metadata"]["generation"] == 1
    status = {"conditions": [{"type": "Ready", "status": "False", "reason": "Pending"}], "step": 0}
    identity = {"apiVersion": f"{GROUP}/v1beta1", "kind": "LoraFineTune", "metadata": {"name": "run"}}
    body = identity | {"status": status}
    await custom.patch_namespaced_custom_object_status(**CUSTOM, name="run", body=body, **APPLY)
    body = identity | {"status": status | {"step": 3}}
    applied = await custom.patch_namespaced_custom_object_status(**CUSTOM, name="run", body=body, **APPLY)
    assert applied["status"]["step"] == 3
    listed = await custom.list_cluster_custom_object(GROUP, "v1beta1", "lorafinetunes")
    assert [item["status"]["step"] for item in listed["items"]] == [3]
    assert [request.verb for request in server.writes()] == ["create", "patch", "patch"]


async def test_the_official_client_creates_jobs_once(api: client.ApiClient) -> None:
    batch: Any = client.BatchV1Api(api)
    created = await batch.create_namespaced_job("default", managed_job("train"))
    assert created.spec.backoff_limit == 0
    with pytest.raises(client.ApiException) as refused:
        await batch.create_namespaced_job("default", managed_job("train"))
    assert (refused.value.status, json.loads(refused.value.body or "{}")["reason"]) == (409, "AlreadyExists")
    await batch.delete_namespaced_job("train", "default", propagation_policy="Background")
    with pytest.raises(client.ApiException) as gone:
        await batch.read_namespaced_job("train", "default")
    assert gone.value.status == 404


async def test_the_official_client_reads_the_termination_message(server: FakeApiServer, api: client.ApiClient) -> None:
    async with Kubelet(server) as kubelet:
        server.create(managed_job("train"))
        pod = await kubelet.pod_of("train")
        kubelet.start(pod)
        kubelet.terminate(pod, exit_code=10, message="bad data")
        core: Any = client.CoreV1Api(api)
        pods = await core.list_namespaced_pod("default", label_selector="batch.kubernetes.io/job-name=train")
    terminated = pods.items[0].status.container_statuses[0].state.terminated
    assert (terminated.exit_code, terminated.message) == (10, "bad data")


async def test_the_official_client_replaces_a_lease_with_optimistic_locking(api: client.ApiClient) -> None:
    leases: Any = client.CoordinationV1Api(api)
    body = {"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    held = await leases.create_namespaced_lease("default", body)
    held.spec.holder_identity = "b"
    await leases.replace_namespaced_lease("leader", "default", held)
    with pytest.raises(client.ApiException) as lost:
        await leases.replace_namespaced_lease("leader", "default", held)
    assert lost.value.status == 409
