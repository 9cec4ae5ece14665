"""Objects: metadata, generations, subresources, errors, finalizers, schemas."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.fakes.apiserver import FakeApiServer
from tests.fakes.errors import ApiError
from tests.unit.fakes.samples import CONFIGMAPS, JOBS, JSON_PATCH, LFT, MERGE, call, configmap, fine_tune, job


async def test_creation_fills_in_metadata_and_defaults(http: aiohttp.ClientSession) -> None:
    status, created = await call(http, "POST", LFT, fine_tune() | {"status": {"step": 3}})
    metadata = created["metadata"]
    assert (status, metadata["generation"], metadata["namespace"]) == (201, 1, "default")
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"].endswith("Z")
    assert created["spec"] == {"model": "m", "suspend": False, "lora": {"r": 16}}
    assert "status" not in created, "status is written through its subresource only"


async def test_resource_versions_grow_across_resources(http: aiohttp.ClientSession) -> None:
    versions = [
        int((await call(http, "POST", path, body))[1]["metadata"]["resourceVersion"])
        for path, body in ((LFT, fine_tune()), (CONFIGMAPS, configmap("a")), (JOBS, job()))
    ]
    assert versions == sorted(set(versions))


async def test_generate_name(http: aiohttp.ClientSession) -> None:
    body = configmap("x")
    body["metadata"] = {"generateName": "run-"}
    names = {(await call(http, "POST", CONFIGMAPS, body))[1]["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("run-") and len(name) == 9 for name in names)


async def test_errors_have_the_status_bodies_of_a_real_server(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", JOBS, job())
    status, body = await call(http, "POST", JOBS, job())
    assert (status, body["reason"], body["message"]) == (409, "AlreadyExists", 'jobs.batch "train" already exists')
    status, body = await call(http, "GET", f"{JOBS}/absent")
    assert (status, body["reason"]) == (404, "NotFound")
    assert body["details"] == {"name": "absent", "group": "batch", "kind": "jobs"}
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", 404)
    status, body = await call(http, "POST", JOBS.replace("default", "nowhere"), job() | {"metadata": {"name": "a"}})
    assert (status, body["message"]) == (404, 'namespaces "nowhere" not found')
    assert (await call(http, "GET", "/apis/nothing.io/v1/things"))[0] == 404


async def test_generation_follows_the_spec_only(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    path = f"{LFT}/run"
    _, labelled = await call(http, "PATCH", path, {"metadata": {"labels": {"a": "b"}}}, kind=MERGE)
    _, progressed = await call(http, "PATCH", f"{path}/status", {"status": {"step": 1}}, kind=MERGE)
    assert (labelled["metadata"]["generation"], progressed["metadata"]["generation"]) == (1, 1)
    _, suspended = await call(http, "PATCH", path, {"spec": {"suspend": True}}, kind=MERGE)
    assert suspended["metadata"]["generation"] == 2


async def test_main_resource_and_status_do_not_touch_each_other(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    both = {"spec": {"suspend": True}, "status": {"step": 1}, "metadata": {"labels": {"a": "b"}}}
    _, after_status = await call(http, "PATCH", f"{LFT}/run/status", both, kind=MERGE)
    assert (after_status["spec"]["suspend"], after_status["status"]) == (False, {"step": 1})
    assert "labels" not in after_status["metadata"]
    _, after_main = await call(http, "PATCH", f"{LFT}/run", both | {"status": {"step": 9}}, kind=MERGE)
    assert (after_main["spec"]["suspend"], after_main["status"]) == (True, {"step": 1})


@pytest.mark.parametrize(("path", "body"), [(LFT, fine_tune("train")), (JOBS, job())])
async def test_put_honours_the_resource_version(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    _, first = await call(http, "POST", path, body)
    _, second = await call(http, "PATCH", f"{path}/train", {"metadata": {"labels": {"a": "b"}}}, kind=MERGE)
    status, refused = await call(http, "PUT", f"{path}/train", first)
    assert (status, refused["reason"]) == (409, "Conflict")
    assert "the object has been modified" in refused["message"]
    second["metadata"]["labels"] = {"a": "c"}
    assert (await call(http, "PUT", f"{path}/train", second))[0] == 200


async def test_custom_resources_are_not_replaced_unconditionally(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    status, body = await call(http, "PUT", f"{LFT}/run", fine_tune())
    assert (status, body["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")


async def test_a_write_that_changes_nothing_is_no_write(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    _, first = await call(http, "POST", LFT, fine_tune())
    _, again = await call(http, "PATCH", f"{LFT}/run", {"spec": {"model": "m"}}, kind=MERGE)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert server.store.revision == int(first["metadata"]["resourceVersion"])


async def test_json_patch_with_test(http: aiohttp.ClientSession) -> None:
    _, created = await call(http, "POST", LFT, fine_tune())
    version = created["metadata"]["resourceVersion"]
    patch = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "add", "path": "/metadata/finalizers", "value": ["lora-operator.io/x"]},
    ]
    status, patched = await call(http, "PATCH", f"{LFT}/run", patch, kind=JSON_PATCH)
    assert (status, patched["metadata"]["finalizers"]) == (200, ["lora-operator.io/x"])
    assert (await call(http, "PATCH", f"{LFT}/run", patch, kind=JSON_PATCH))[0] == 422


async def test_merge_patch_with_a_stale_resource_version_conflicts(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"suspend": True}}
    assert (await call(http, "PATCH", f"{LFT}/run", stale, kind=MERGE))[0] == 409


async def test_strategic_merge_is_for_built_in_kinds_without_lists(http: aiohttp.ClientSession) -> None:
    strategic = "application/strategic-merge-patch+json"
    await call(http, "POST", LFT, fine_tune())
    await call(http, "POST", CONFIGMAPS, configmap("a"))
    assert (await call(http, "PATCH", f"{LFT}/run", {"spec": {"suspend": True}}, kind=strategic))[0] == 415
    assert (await call(http, "PATCH", f"{CONFIGMAPS}/a", {"data": {"b": "2"}}, kind=strategic))[1]["data"]["b"] == "2"
    listed = {"metadata": {"finalizers": ["a/b"]}}
    assert (await call(http, "PATCH", f"{CONFIGMAPS}/a", listed, kind=strategic))[0] == 415


async def test_a_finalizer_delays_the_deletion(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    body = fine_tune()
    body["metadata"]["finalizers"] = ["a/b"]
    await call(http, "POST", LFT, body)
    _, marked = await call(http, "DELETE", f"{LFT}/run")
    assert marked["metadata"]["deletionTimestamp"]
    assert server.find("lorafinetunes", "run", "default") is not None
    more = {"metadata": {"finalizers": ["a/b", "c/d"]}}
    assert (await call(http, "PATCH", f"{LFT}/run", more, kind=MERGE))[0] == 422
    await call(http, "PATCH", f"{LFT}/run", {"metadata": {"finalizers": None}}, kind=MERGE)
    assert server.find("lorafinetunes", "run", "default") is None


async def test_deletion_preconditions(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    _, created = await call(http, "POST", LFT, fine_tune())
    status, body = await call(http, "DELETE", f"{LFT}/run", {"preconditions": {"uid": "another"}})
    assert (status, body["reason"]) == (409, "Conflict")
    exact = {"preconditions": {"uid": created["metadata"]["uid"]}}
    status, body = await call(http, "DELETE", f"{LFT}/run", exact)
    assert (status, body["status"], body["details"]["uid"]) == (200, "Success", created["metadata"]["uid"])
    assert server.objects("lorafinetunes") == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"model": ""}, "spec.model"),
        ({"model": 3}, "spec.model"),
        ({"lora": {"r": 0}}, "spec.lora.r"),
        ({"lora": {"r": "16"}}, "spec.lora.r"),
    ],
)
async def test_the_schema_refuses(http: aiohttp.ClientSession, spec: dict[str, Any], field: str) -> None:
    status, body = await call(http, "POST", LFT, fine_tune(**spec))
    assert (status, body["reason"]) == (422, "Invalid")
    assert [cause["field"] for cause in body["details"]["causes"]] == [field]


async def test_unknown_fields_are_pruned_or_under_strict_validation_refused(http: aiohttp.ClientSession) -> None:
    body = fine_tune(lora={"rank": 8})
    status, refused = await call(http, "POST", LFT, body, fieldValidation="Strict")
    assert (status, 'unknown field "spec.lora.rank"' in refused["message"]) == (400, True)
    assert (await call(http, "POST", LFT, body))[1]["spec"]["lora"] == {"r": 16}


async def test_null_is_defaulted_unless_nullable(http: aiohttp.ClientSession) -> None:
    _, created = await call(http, "POST", LFT, fine_tune(lora={"r": None, "note": None}))
    assert created["spec"]["lora"] == {"r": 16, "note": None}


async def test_the_schema_holds_for_status(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    wrong = {"status": {"conditions": [{"type": "Ready", "status": "Yes"}]}}
    status, body = await call(http, "PATCH", f"{LFT}/run/status", wrong, kind=MERGE)
    assert (status, body["details"]["causes"][0]["field"]) == (422, "status.conditions[0].status")


async def test_labels_and_names_are_checked(http: aiohttp.ClientSession) -> None:
    assert (await call(http, "POST", CONFIGMAPS, configmap("Upper")))[0] == 422
    assert (await call(http, "POST", CONFIGMAPS, configmap("a", labels={"a": "x" * 64})))[0] == 422
    status, body = await call(http, "POST", JOBS, job("j" * 64))
    assert (status, body["details"]["causes"][0]["field"]) == (422, "spec.template.labels")


async def test_an_immutable_configmap_stays_as_it_is(http: aiohttp.ClientSession) -> None:
    await call(http, "POST", CONFIGMAPS, configmap("a") | {"immutable": True})
    assert (await call(http, "PATCH", f"{CONFIGMAPS}/a", {"data": {"a": "2"}}, kind=MERGE))[0] == 422
    assert (await call(http, "PATCH", f"{CONFIGMAPS}/a", {"metadata": {"labels": {"x": "y"}}}, kind=MERGE))[0] == 200


async def test_a_job_gets_its_selector_and_keeps_its_template(http: aiohttp.ClientSession) -> None:
    _, created = await call(http, "POST", JOBS, job())
    uid, spec = created["metadata"]["uid"], created["spec"]
    assert spec["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "train"
    assert spec["selector"]["matchLabels"] == {"batch.kubernetes.io/controller-uid": uid}
    assert (spec["completions"], spec["suspend"], spec["backoffLimit"]) == (1, False, 0)
    change = {"spec": {"template": {"metadata": {"labels": {"x": "y"}}}}}
    assert (await call(http, "PATCH", f"{JOBS}/train", change, kind=MERGE))[0] == 422
    assert (await call(http, "PATCH", f"{JOBS}/train", {"spec": {"suspend": True}}, kind=MERGE))[0] == 200


async def test_new_events_need_their_fields(http: aiohttp.ClientSession) -> None:
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    event = {
        "metadata": {"generateName": "run."},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "lora-operator.io/operator",
        "reportingInstance": "pod-1",
        "action": "Reconcile",
        "reason": "Accepted",
        "type": "Normal",
        "note": "said",
        "regarding": {"kind": "LoraFineTune"},
    }
    status, created = await call(http, "POST", path, event)
    assert (status, created["regarding"]) == (201, {"kind": "LoraFineTune"})
    del event["eventTime"]
    assert (await call(http, "POST", path, event))[0] == 422


async def test_an_event_lies_in_the_namespace_of_its_object(http: aiohttp.ClientSession) -> None:
    path = "/api/v1/namespaces/default/events"
    event = {"metadata": {"name": "a"}, "involvedObject": {"kind": "LoraFineTune", "namespace": "default"}}
    assert (await call(http, "POST", path, event))[0] == 201
    event = {"metadata": {"name": "b"}, "involvedObject": {"kind": "LoraFineTune", "namespace": "team-a"}}
    status, body = await call(http, "POST", path, event)
    assert (status, body["details"]["causes"][0]["field"]) == (422, "involvedObject.namespace")


async def test_secrets_are_never_served(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    status, _ = await call(http, "GET", "/api/v1/namespaces/default/secrets/token")
    assert status == 403
    assert [violation.path for violation in server.violations] == ["/api/v1/namespaces/default/secrets/token"]


async def test_direct_access_hands_out_copies(server: FakeApiServer) -> None:
    created = server.create(fine_tune() | {"status": {"step": 1}})
    assert created["status"] == {"step": 1}
    created["spec"]["model"] = "changed"
    assert server.get("lorafinetunes", "run", "default")["spec"]["model"] == "m"
    server.patch("lorafinetunes", "run", "default", merge={"status": {"step": 2}}, subresource="status")
    assert server.get("lorafinetunes", "run", "default")["status"]["step"] == 2
    server.delete("lorafinetunes", "run", "default")
    with pytest.raises(ApiError, match="not found"):
        server.get("lorafinetunes", "run", "default")
    with pytest.raises(LookupError, match="does not serve 'deployments'"):
        server.objects("deployments")


async def test_wait_for_says_what_did_not_happen(server: FakeApiServer) -> None:
    with pytest.raises(AssertionError, match=r"a job did not come true in 0\.05 s"):
        await server.wait_for(lambda: server.objects("jobs"), timeout=0.05, what="a job")
