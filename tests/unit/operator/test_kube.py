"""The door to the API server: which answer becomes which error, and how lists and applies are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator import naming
from lora_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    KubeError,
    NotFound,
    Refused,
    Throttled,
    Unavailable,
    error_of,
)
from lora_operator.kube.gateway import CONFIG_MAPS, EVENTS, JOBS, RUNS, Gateway, Resource, as_yaml, connect

from tests.builders import NAME, NAMESPACE, class_body, run_body
from tests.component.world import CRDS
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.faults import Fault

ERRORS = [
    (404, "NotFound", NotFound),
    (409, "AlreadyExists", AlreadyExists),
    (409, "Conflict", Conflict),
    (429, "TooManyRequests", Throttled),
    (500, "InternalError", Unavailable),
    (503, "", Unavailable),
    (400, "BadRequest", Refused),
    (403, "Forbidden", Refused),
    (413, "RequestEntityTooLarge", Refused),
    (422, "Invalid", Refused),
    (405, "MethodNotAllowed", KubeError),
]


@pytest.mark.parametrize(("status", "reason", "kind"), ERRORS)
def test_every_answer_has_its_error(status: int, reason: str, kind: type[KubeError]) -> None:
    error = error_of(status=status, reason=reason, what="get /x", said="m", retry_after=2.0)
    assert type(error) is kind
    assert (error.status, error.retry_after) == (status, 2.0)


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer(crds=CRDS, namespaces=[NAMESPACE]) as running:
        yield running


@pytest.fixture
def recorded() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
async def gateway(
    server: FakeApiServer, recorded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))

    def record(verb: str, resource: Resource, code: int) -> None:
        recorded.append((verb, resource.plural, code))

    async with connect(record=record) as connected:
        yield connected


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}}


async def test_what_is_served_is_told_from_what_is_not(gateway: Gateway) -> None:
    assert await gateway.serves(RUNS)
    assert not await gateway.serves(replace(RUNS, prefix=f"apis/{naming.GROUP}/v1"))
    assert not await gateway.serves(replace(RUNS, plural="lorafinetunings"))


async def test_errors_carry_the_servers_sentence_and_are_recorded(gateway: Gateway, recorded: list[Any]) -> None:
    with pytest.raises(NotFound, match=r"get /apis/batch/v1/namespaces/team-a/jobs/x: .*not found"):
        await gateway.get(JOBS, NAMESPACE, "x")
    await gateway.create(CONFIG_MAPS, config_map("a"))
    with pytest.raises(AlreadyExists):
        await gateway.create(CONFIG_MAPS, config_map("a"))
    assert recorded == [("get", "jobs", 404), ("create", "configmaps", 201), ("create", "configmaps", 409)]


async def test_lists_come_page_by_page(
    server: FakeApiServer, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_operator.kube.gateway.PAGE", 2)
    for name in "abcde":
        server.create(config_map(name))
    names = [item["metadata"]["name"] async for item in gateway.list(CONFIG_MAPS, NAMESPACE)]
    assert names == list("abcde")
    assert sum(request.verb == "list" for request in server.requests) == 3


async def test_a_selector_is_asked_of_the_server(server: FakeApiServer, gateway: Gateway) -> None:
    server.create(config_map("a"))
    labelled = config_map("b")
    labelled["metadata"]["labels"] = {naming.RUN_UID_LABEL: "u"}
    server.create(labelled)
    found = [item async for item in gateway.list(CONFIG_MAPS, NAMESPACE, selector=naming.run_selector("u"))]
    assert [item["metadata"]["name"] for item in found] == ["b"]


async def test_a_throttled_request_says_for_how_long(server: FakeApiServer, gateway: Gateway) -> None:
    server.faults.add(Fault(verb="get", status=429, retry_after=7))
    with pytest.raises(Throttled) as refused:
        await gateway.get(CONFIG_MAPS, NAMESPACE, "x")
    assert refused.value.retry_after == 7.0


async def test_no_answer_is_unavailable(server: FakeApiServer, gateway: Gateway, recorded: list[Any]) -> None:
    server.faults.add(Fault(verb="create", drop_connection=True))
    with pytest.raises(Unavailable):
        await gateway.create(CONFIG_MAPS, config_map("a"))
    assert recorded == [("create", "configmaps", 0)]


async def test_status_is_applied_to_the_version_that_was_read(server: FakeApiServer, gateway: Gateway) -> None:
    server.create(class_body())
    read = server.create(run_body())["metadata"]
    status = {"observedGeneration": 1, "resumptions": 0}
    identity = {"uid": read["uid"], "resource_version": read["resourceVersion"]}
    written = await gateway.apply_status(RUNS, NAMESPACE, NAME, **identity, status=status)
    assert written["status"]["observedGeneration"] == 1
    with pytest.raises(Conflict):
        await gateway.apply_status(RUNS, NAMESPACE, NAME, **identity, status={"observedGeneration": 2})
    newest = {"resource_version": written["metadata"]["resourceVersion"], "uid": "another"}
    with pytest.raises(Conflict):
        await gateway.apply_status(RUNS, NAMESPACE, NAME, **newest, status={"observedGeneration": 2})
    request = server.writes()[-1]
    assert request.is_apply
    assert request.query == {"fieldManager": naming.FIELD_MANAGER, "force": "true", "timeout": "20000ms"}


def test_a_status_is_yaml_whatever_people_have_typed() -> None:
    status = {"message": 'sloth 🦥, 名, é, \x00 \x1f \x7f \x85 \x97 \xa0 \u2028 \ufeff \uffff, \\ud83e and "'}
    assert yaml.safe_load(as_yaml(status)) == status


async def test_what_status_no_longer_says_goes(server: FakeApiServer, gateway: Gateway) -> None:
    server.create(class_body())
    version = server.create(run_body())["metadata"]
    for status in ({"className": "a", "resumptions": 1}, {"resumptions": 1}):
        written = await gateway.apply_status(
            RUNS, NAMESPACE, NAME, uid=version["uid"], resource_version=version["resourceVersion"], status=status
        )
        version = written["metadata"]
        assert written["status"].get("className") == status.get("className")


async def test_only_the_very_object_is_deleted(server: FakeApiServer, gateway: Gateway) -> None:
    created = server.create(config_map("a"))
    with pytest.raises(Conflict):
        await gateway.delete(CONFIG_MAPS, NAMESPACE, "a", uid="another")
    await gateway.delete(CONFIG_MAPS, NAMESPACE, "a", uid=created["metadata"]["uid"])
    assert server.writes()[-1].body["propagationPolicy"] == "Foreground"


def test_paths() -> None:
    assert RUNS.path("ns", "x") == "/apis/lora-operator.io/v1beta1/namespaces/ns/lorafinetunes/x"
    assert RUNS.path(None) == "/apis/lora-operator.io/v1beta1/lorafinetunes"
    assert EVENTS.path("ns") == "/api/v1/namespaces/ns/events"
