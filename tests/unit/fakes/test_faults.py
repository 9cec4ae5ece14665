"""Injected faults and the record of requests."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from tests.fakes.apiserver import FakeApiServer
from tests.fakes.faults import Fault
from tests.unit.fakes.samples import APPLY, CONFIGMAPS, JOBS, LFT, MERGE, call, configmap, events, fine_tune, job


async def test_a_fault_hits_so_many_times_after_so_many_passed(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    armed = server.faults.add(Fault(verb="get", resource="lorafinetunes", status=500, after=1, count=2))
    server.create(fine_tune())
    seen = [(await call(http, "GET", f"{LFT}/run"))[0] for _ in range(4)]
    assert (seen, armed.hits) == ([200, 500, 500, 200], 2)


async def test_429_says_when_to_come_back(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.faults.add(Fault(verb="create", resource="jobs", status=429, retry_after=3))
    async with http.post(JOBS, json=job()) as response:
        body = await response.json()
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
    assert (body["reason"], body["details"]["retryAfterSeconds"]) == ("TooManyRequests", 3)
    assert server.objects("jobs") == []


async def test_faults_choose_by_name_subresource_and_predicate(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    server.create(fine_tune())
    server.create(fine_tune("other"))
    server.faults.add(Fault(resource="lorafinetunes/status", name="run", status=409, count=None))
    server.faults.add(Fault(when=lambda request: request.method == "DELETE", status=500))
    step = {"status": {"step": 1}}
    status, body = await call(http, "PATCH", f"{LFT}/run/status", step, kind=MERGE)
    assert (status, body["reason"]) == (409, "Conflict")
    assert (await call(http, "PATCH", f"{LFT}/other/status", step, kind=MERGE))[0] == 200
    assert (await call(http, "GET", f"{LFT}/run"))[0] == 200
    assert (await call(http, "DELETE", f"{LFT}/run"))[0] == 500
    server.faults.clear()
    assert (await call(http, "PATCH", f"{LFT}/run/status", step, kind=MERGE))[0] == 200


async def test_a_dropped_request_has_no_effect_unless_committed(
    server: FakeApiServer, http: aiohttp.ClientSession
) -> None:
    server.faults.add(Fault(verb="create", resource="jobs", drop_connection=True))
    with pytest.raises(aiohttp.ClientConnectionError):
        await call(http, "POST", JOBS, job())
    assert server.objects("jobs") == []
    server.faults.add(Fault(verb="create", resource="jobs", drop_connection=True, committed=True))
    with pytest.raises(aiohttp.ClientConnectionError):
        await call(http, "POST", JOBS, job())
    assert len(server.objects("jobs")) == 1


async def test_apply_then_fail(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.create(fine_tune())
    server.faults.add(Fault(verb="patch", resource="lorafinetunes/status", status=500, committed=True))
    path, body = f"{LFT}/run/status", {"status": {"step": 7}}
    status, _ = await call(http, "PATCH", path, body, kind=APPLY, fieldManager="op")
    assert (status, server.get("lorafinetunes", "run", "default")["status"]) == (500, {"step": 7})


async def test_delay(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.faults.add(Fault(verb="list", delay=0.1))
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert (await call(http, "GET", CONFIGMAPS))[0] == 200
    assert loop.time() - started >= 0.1


def test_a_fault_without_an_effect_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs an effect"):
        Fault(verb="get")


async def test_requests_are_recorded(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    await call(http, "POST", LFT, fine_tune())
    await call(http, "PATCH", f"{LFT}/run/status", {"status": {"step": 1}}, kind=APPLY, fieldManager="op")
    await call(http, "GET", LFT)
    created, applied, listed = server.requests
    assert (created.verb, created.resource, created.status, created.user_agent) == (
        "create",
        "lorafinetunes.lora-operator.io",
        201,
        "tester/1",
    )
    assert created.body["spec"] == {"model": "m"}
    assert (applied.verb, applied.subresource, applied.name, applied.is_apply) == ("patch", "status", "run", True)
    assert (listed.verb, listed.is_write) == ("list", False)
    assert server.writes(user_agent="tester") == [created, applied]
    assert server.writes(user_agent="someone else") == []


async def test_a_bug_in_the_fake_is_not_taken_for_a_fault() -> None:
    async def sabotaged() -> None:
        async with FakeApiServer() as server, aiohttp.ClientSession(server.url) as http:
            server.store.resources = None  # type: ignore[assignment] - the sabotage
            with contextlib.suppress(aiohttp.ContentTypeError):
                await call(http, "GET", LFT)

    with pytest.raises(AssertionError, match="the fake API server itself failed"):
        await sabotaged()


async def test_dropped_watches_end_in_the_middle(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    watch = asyncio.create_task(events(http, CONFIGMAPS))
    await server.wait_for(lambda: server.hub.open_streams("configmaps") == 1)
    server.drop_watches("jobs")
    await asyncio.sleep(0.02)
    assert not watch.done(), "a watch of another resource lives on"
    server.drop_watches("configmaps")
    with pytest.raises(aiohttp.ClientPayloadError):
        await watch
    assert server.hub.open_streams() == 0


@pytest.mark.parametrize("code", [410, 429, 500])
async def test_error_events_in_the_stream(server: FakeApiServer, http: aiohttp.ClientSession, code: int) -> None:
    watch = asyncio.create_task(events(http, CONFIGMAPS))
    await server.wait_for(lambda: server.hub.open_streams() == 1)
    server.fail_watches("configmaps", code=code)
    ((kind, status),) = await watch
    assert (kind, status["kind"], status["code"]) == ("ERROR", "Status", code)


async def test_a_watch_request_can_be_refused(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.faults.add(Fault(verb="watch", resource="configmaps", status=429, retry_after=1))
    status, body = await call(http, "GET", CONFIGMAPS, watch="true")
    assert (status, body["code"]) == (429, 429)


async def test_a_gap_with_compaction_loses_the_deletion(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    server.create(configmap("a"))
    revision = str(server.store.revision)
    watch = asyncio.create_task(events(http, CONFIGMAPS, resourceVersion=revision))
    await server.wait_for(lambda: server.hub.open_streams() == 1)
    with server.watches_down("configmaps"):
        with pytest.raises(aiohttp.ClientPayloadError):
            await watch
        server.delete("configmaps", "a", "default")
        server.compact()
        with pytest.raises(aiohttp.ClientConnectionError):
            await events(http, CONFIGMAPS, resourceVersion=revision)
        assert (await call(http, "GET", CONFIGMAPS))[1]["items"] == []
    ((kind, status),) = await events(http, CONFIGMAPS, resourceVersion=revision)
    assert (kind, status["code"]) == ("ERROR", 410)


async def test_an_outage_cuts_everything(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    with server.outage(), pytest.raises(aiohttp.ClientConnectionError):
        await call(http, "GET", "/version")
    assert (await call(http, "GET", "/version"))[0] == 200


async def test_held_events_arrive_late_and_complete(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    query = {"resourceVersion": str(server.store.revision), "allowWatchBookmarks": "true"}
    with server.hold_events("configmaps"):
        server.create(configmap("a"))
        ((kind, mark),) = await events(http, CONFIGMAPS, count=1, **query)
        assert (kind, mark["metadata"]["resourceVersion"]) == ("BOOKMARK", query["resourceVersion"])
        watch = asyncio.create_task(events(http, CONFIGMAPS, count=1, resourceVersion=query["resourceVersion"]))
        await server.wait_for(lambda: server.hub.open_streams() == 1)
    assert (await watch)[0][0] == "ADDED"


async def test_lost_events_never_arrive(server: FakeApiServer, http: aiohttp.ClientSession) -> None:
    revision = str(server.store.revision)
    with server.lose_events("configmaps"):
        server.create(configmap("lost"))
    server.create(configmap("seen"))
    ((_, obj),) = await events(http, CONFIGMAPS, count=1, resourceVersion=revision)
    assert obj["metadata"]["name"] == "seen"
    assert len((await call(http, "GET", CONFIGMAPS))[1]["items"]) == 2
