"""Lists, selectors, watches and discovery."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.fakes.apiserver import FakeApiServer
from tests.fakes.errors import ApiError
from tests.fakes.resources import Target, parse_path
from tests.fakes.selectors import label_predicate, object_predicate
from tests.unit.fakes.samples import CONFIGMAPS, call, configmap, events, fine_tune

LABELLED = {"app": "lora", "tier": "gpu"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=lora", True),
        ("app==lora,tier=gpu", True),
        ("app=lora,tier!=gpu", False),
        ("absent!=x", True),
        ("app in (lora, other)", True),
        ("app in (other),tier", False),
        ("tier notin (cpu)", True),
        ("tier,!absent", True),
        ("!tier", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert label_predicate(selector)(LABELLED) is matches


def test_field_selectors() -> None:
    obj = configmap("a")
    assert object_predicate(fields="metadata.name=a,metadata.namespace=default")(obj)
    assert not object_predicate(fields="metadata.name!=a")(obj)


def test_a_selector_that_is_none_is_refused() -> None:
    with pytest.raises(ApiError) as refused:
        label_predicate("a b c")
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", Target(group="", version="v1", plural="pods")),
        ("/api/v1/namespaces/a", Target(group="", version="v1", plural="namespaces", name="a")),
        ("/api/v1/namespaces/a/pods", Target(group="", version="v1", plural="pods", namespace="a")),
        (
            "/apis/batch/v1/namespaces/a/jobs/b/status",
            Target(group="batch", version="v1", plural="jobs", namespace="a", name="b", subresource="status"),
        ),
        ("/version", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert parse_path(path) == target


async def test_list_filters_and_carries_the_revision(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.create(configmap("a", labels={"app": "lora"}))
    server.create(configmap("b"))
    _, listed = await call(http, "GET", "/api/v1/configmaps", labelSelector="app=lora")
    assert (listed["kind"], [item["metadata"]["name"] for item in listed["items"]]) == ("ConfigMapList", ["a"])
    assert listed["metadata"]["resourceVersion"] == str(server.store.revision)


async def test_chunks_are_one_consistent_list(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    for name in "abcde":
        server.create(configmap(name))
    _, page = await call(http, "GET", CONFIGMAPS, limit="2")
    revision, names = page["metadata"]["resourceVersion"], []
    server.delete("configmaps", "d", "default")
    while True:
        names += [item["metadata"]["name"] for item in page["items"]]
        assert page["metadata"]["resourceVersion"] == revision
        token = page["metadata"].get("continue")
        if not token:
            break
        _, page = await call(http, "GET", CONFIGMAPS, **{"limit": "2", "continue": token})
    assert names == list("abcde"), "the list is that of its first chunk"


async def test_a_continue_token_expires_with_compaction(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    for name in "abc":
        server.create(configmap(name))
    _, page = await call(http, "GET", CONFIGMAPS, limit="1")
    server.create(configmap("d"))
    server.compact()
    status, body = await call(http, "GET", CONFIGMAPS, **{"continue": page["metadata"]["continue"]})
    assert (status, body["reason"]) == (410, "Expired")


async def test_watch_replays_from_the_revision(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.create(configmap("before"))
    revision = server.store.revision
    server.create(configmap("a"))
    server.patch("configmaps", "a", "default", merge={"data": {"a": "2"}})
    server.delete("configmaps", "a", "default")
    seen = await events(http, CONFIGMAPS, count=3, resourceVersion=str(revision))
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in seen]
    assert versions == [revision + 1, revision + 2, revision + 3]


async def test_watch_without_a_revision_starts_with_what_exists(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    server.create(configmap("a"))
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    (added, obj), (bookmark, mark) = await events(http, CONFIGMAPS, count=2, **query)
    assert (added, obj["metadata"]["name"], bookmark) == ("ADDED", "a", "BOOKMARK")
    assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_an_object_that_leaves_the_selector_is_deleted_for_the_watch(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    revision = server.store.revision
    server.create(configmap("a", labels={"app": "lora"}))
    server.patch("configmaps", "a", "default", merge={"metadata": {"labels": {"app": None}}})
    server.patch("configmaps", "a", "default", merge={"data": {"x": "unseen"}})
    server.patch("configmaps", "a", "default", merge={"metadata": {"labels": {"app": "lora"}}})
    seen = await events(http, CONFIGMAPS, count=3, resourceVersion=str(revision), labelSelector="app=lora")
    assert [kind for kind, _ in seen] == ["ADDED", "DELETED", "ADDED"]
    assert seen[1][1]["metadata"]["resourceVersion"] == str(revision + 2)


async def test_watch_of_a_namespace(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    revision = str(server.store.revision)
    server.create(configmap("elsewhere", namespace="other"))
    server.create(configmap("here"))
    seen = await events(http, CONFIGMAPS, count=1, resourceVersion=revision)
    assert seen[0][1]["metadata"]["name"] == "here"


async def test_bookmarks_carry_the_current_revision(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    revision = str(server.store.revision)
    server.create(fine_tune())  # another resource moves the revision on
    kind, obj = (await events(http, CONFIGMAPS, count=1, resourceVersion=revision, allowWatchBookmarks="true"))[0]
    assert (kind, obj["metadata"]["resourceVersion"]) == ("BOOKMARK", str(server.store.revision))


async def test_timeout_seconds_ends_the_watch(http: aiohttp.ClientSession) -> None:
    started = asyncio.get_running_loop().time()
    assert await events(http, CONFIGMAPS, timeoutSeconds="0.1") == []
    assert asyncio.get_running_loop().time() - started < 1


async def test_a_compacted_revision_is_answered_with_410(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    old = str(server.store.revision)
    server.create(configmap("a"))
    server.compact()
    ((kind, status),) = await events(http, CONFIGMAPS, resourceVersion=old)
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    newest = str(server.store.revision)
    assert await events(http, CONFIGMAPS, resourceVersion=newest, timeoutSeconds="0.05") == []


async def test_discovery(http: aiohttp.ClientSession) -> None:
    assert (await call(http, "GET", "/version"))[1]["major"] == "1"
    assert (await call(http, "GET", "/api"))[1]["versions"] == ["v1"]
    groups = {group["name"] for group in (await call(http, "GET", "/apis"))[1]["groups"]}
    assert {"batch", "events.k8s.io", "coordination.k8s.io", "lora-operator.io"} <= groups
    _, listed = await call(http, "GET", "/apis/lora-operator.io/v1beta1")
    assert {"lorafinetunes", "lorafinetunes/status", "lorafinetuneclasses"} == {r["name"] for r in listed["resources"]}
    core = {resource["name"] for resource in (await call(http, "GET", "/api/v1"))[1]["resources"]}
    assert "pods" in core
    assert "secrets" not in core
    async with http.get("/readyz") as response:
        assert await response.text() == "ok"
