"""Server-side apply: creation, merging, ownership, conflicts."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.fakes import fields
from tests.unit.fakes.samples import APPLY, CONFIGMAPS, LFT, MERGE, call, configmap, fine_tune

RUN = f"{LFT}/run"


def condition(kind: str, status: str = "True", **more: str) -> dict[str, Any]:
    return {"type": kind, "status": status} | more


async def apply_status(
    http: aiohttp.ClientSession, manager: str, status: dict[str, Any], *, force: bool = True
) -> tuple[int, Any]:
    body = {"apiVersion": "lora-operator.io/v1beta1", "kind": "LoraFineTune", "status": status}
    query = {"fieldManager": manager, "force": str(force).lower()}
    return await call(http, "PATCH", f"{RUN}/status", body, kind=APPLY, **query)


@pytest.fixture(autouse=True)
async def run(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())


async def test_apply_creates_and_then_merges(http: aiohttp.ClientSession) -> None:
    body = configmap("new")
    status, created = await call(http, "PATCH", f"{CONFIGMAPS}/new", body, kind=APPLY, fieldManager="op")
    assert (status, created["data"]) == (201, {"a": "1"})
    await call(http, "PATCH", f"{CONFIGMAPS}/new", {"data": {"mine": "x"}}, kind=MERGE)
    body["data"] = {"b": "2"}
    status, merged = await call(http, "PATCH", f"{CONFIGMAPS}/new", body, kind=APPLY, fieldManager="op")
    assert (status, merged["data"]) == (200, {"mine": "x", "b": "2"}), "`a` was dropped, `mine` is another manager's"


async def test_apply_to_status_touches_only_status(http: aiohttp.ClientSession) -> None:
    body = fine_tune(model="other") | {"status": {"step": 1}}
    status, applied = await call(http, "PATCH", f"{RUN}/status", body, kind=APPLY, fieldManager="op")
    assert (status, applied["status"], applied["spec"]["model"]) == (200, {"step": 1}, "m")
    entry = next(entry for entry in applied["metadata"]["managedFields"] if entry["manager"] == "op")
    assert (entry["operation"], entry["subresource"]) == ("Apply", "status")
    assert entry["fieldsV1"] == {"f:status": {"f:step": {}}}


async def test_status_of_an_absent_object_is_not_created(http: aiohttp.ClientSession) -> None:
    status, _ = await call(http, "PATCH", f"{LFT}/gone/status", {"status": {}}, kind=APPLY, fieldManager="op")
    assert status == 404


async def test_two_managers_share_the_conditions_list(http: aiohttp.ClientSession) -> None:
    await apply_status(http, "a", {"conditions": [condition("Ready", "False"), condition("Running")]})
    await apply_status(http, "b", {"conditions": [condition("Published")]})
    _, applied = await apply_status(http, "a", {"conditions": [condition("Ready", reason="Done")]})
    assert applied["status"]["conditions"] == [condition("Ready", reason="Done"), condition("Published")]


async def test_fields_that_a_manager_drops_are_removed(http: aiohttp.ClientSession) -> None:
    await apply_status(http, "a", {"step": 1, "loss": 0.5, "history": [1, 2]})
    _, applied = await apply_status(http, "a", {"step": 2, "history": [3]})
    assert applied["status"] == {"step": 2, "history": [3]}
    _, emptied = await apply_status(http, "a", {})
    assert "status" not in emptied


async def test_a_shared_field_stays_until_its_last_owner_drops_it(http: aiohttp.ClientSession) -> None:
    await apply_status(http, "a", {"step": 1, "loss": 0.5})
    await apply_status(http, "b", {"loss": 0.5}, force=False)
    assert (await apply_status(http, "a", {"step": 1}))[1]["status"] == {"step": 1, "loss": 0.5}
    assert (await apply_status(http, "b", {}))[1]["status"] == {"step": 1}


async def test_conflict_without_force_names_field_and_manager(http: aiohttp.ClientSession) -> None:
    await apply_status(http, "a", {"step": 1})
    status, body = await apply_status(http, "b", {"step": 2}, force=False)
    assert (status, body["reason"]) == (409, "Conflict")
    assert body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "a" using Apply', "field": ".status.step"}
    ]
    assert (await apply_status(http, "b", {"step": 2}))[1]["status"] == {"step": 2}
    assert (await apply_status(http, "a", {}))[1]["status"] == {"step": 2}, "force took the field away from a"


async def test_a_plain_update_takes_ownership(http: aiohttp.ClientSession) -> None:
    await apply_status(http, "a", {"step": 1})
    await call(http, "PATCH", f"{RUN}/status", {"status": {"step": 5}}, kind=MERGE)
    status, body = await apply_status(http, "a", {"step": 1}, force=False)
    assert (status, 'conflict with "tester" using Update' in body["message"]) == (409, True)


async def test_applying_the_same_again_writes_nothing(http: aiohttp.ClientSession) -> None:
    _, first = await apply_status(http, "a", {"step": 1, "conditions": [condition("Ready")]})
    _, again = await apply_status(http, "a", {"step": 1, "conditions": [condition("Ready")]})
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]


async def test_a_stale_resource_version_in_the_body_conflicts(http: aiohttp.ClientSession) -> None:
    body = {"metadata": {"resourceVersion": "1"}, "status": {"step": 1}}
    assert (await call(http, "PATCH", f"{RUN}/status", body, kind=APPLY, fieldManager="a"))[0] == 409


async def test_apply_needs_a_field_manager(http: aiohttp.ClientSession) -> None:
    status, body = await call(http, "PATCH", f"{RUN}/status", {"status": {"step": 1}}, kind=APPLY)
    assert (status, body["details"]["causes"][0]["field"]) == (422, "fieldManager")


def test_fields_v1_round_trip() -> None:
    obj = {"status": {"conditions": [condition("Ready")], "step": 1}, "metadata": {"finalizers": ["a/b"]}}
    paths = frozenset(path for path, _ in fields.leaves(obj, None))
    assert ("f:metadata", "f:finalizers", 'v:"a/b"') in paths
    assert ("f:status", "f:conditions", 'k:{"type":"Ready"}', "f:status") in paths
    assert fields.from_fields_v1(fields.to_fields_v1(paths)) == paths
