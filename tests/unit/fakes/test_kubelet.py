"""The fake Job controller and kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes import jobs
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.kubelet import Kubelet, Termination
from tests.unit.fakes.samples import fine_tune, job, owner_reference

POLICY: dict[str, Any] = {
    "podFailurePolicy": {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "Ignore", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [40]}},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [10, 11]}},
        ]
    }
}


@pytest.fixture
async def kubelet(server: FakeApiServer) -> AsyncIterator[Kubelet]:
    async with Kubelet(server) as running:
        yield running


def status_of(server: FakeApiServer, name: str = "train") -> dict[str, Any]:
    return server.get("jobs", name, "default").get("status", {})


def reason(server: FakeApiServer, kind: str) -> str | None:
    found = jobs.condition(server.get("jobs", "train", "default"), kind)
    return found["reason"] if found else None


async def test_a_job_gets_a_pod_that_belongs_to_it(server: FakeApiServer, kubelet: Kubelet) -> None:
    created = server.create(job())
    pod = await kubelet.pod_of("train")
    assert pod["metadata"]["name"].startswith("train-")
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "train"
    assert pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == created["metadata"]["uid"]
    assert pod["metadata"]["ownerReferences"] == [owner_reference(created)]
    assert pod["status"]["phase"] == "Pending"
    status = status_of(server)
    assert (status["active"], status["ready"]) == (1, 0)
    assert status["startTime"]


async def test_success_completes_the_job(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job())
    pod = await kubelet.pod_of("train")
    kubelet.start(pod, node="gpu-7", pod_ip="127.0.0.9")
    running = server.get("pods", pod["metadata"]["name"], "default")
    assert (running["spec"]["nodeName"], running["status"]["podIP"]) == ("gpu-7", "127.0.0.9")
    await server.wait_for(lambda: status_of(server).get("ready") == 1)
    kubelet.terminate(pod, exit_code=0, message='{"step": 3}')
    await server.wait_for(lambda: reason(server, "Complete") == "CompletionsReached")
    status = status_of(server)
    assert (status["succeeded"], status["active"]) == (1, 0)
    assert status["completionTime"]
    assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    ended = server.get("pods", pod["metadata"]["name"], "default")
    terminated = ended["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"], terminated["reason"]) == (0, '{"step": 3}', "Completed")
    assert "finalizers" not in ended["metadata"], "the pod was counted"


async def test_failure_exhausts_the_backoff_limit(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(backoffLimit=1))
    first = await kubelet.pod_of("train")
    kubelet.start(first)
    kubelet.terminate(first, exit_code=30, reason="OOMKilled")
    second = await kubelet.pod_of("train")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    kubelet.terminate(second, exit_code=1)
    await server.wait_for(lambda: reason(server, "Failed") == "BackoffLimitExceeded")
    assert status_of(server)["failed"] == 2
    assert len(server.objects("pods")) == 2, "the pods of a failed Job stay to be read"


async def test_ignored_failures_are_replaced_and_not_counted(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(**POLICY))
    first = await kubelet.pod_of("train")
    kubelet.start(first)
    kubelet.disrupt(first)
    second = await kubelet.pod_of("train")
    await server.wait_for(lambda: server.find("pods", first["metadata"]["name"], "default") is None)
    kubelet.start(second)
    kubelet.terminate(second, exit_code=40)
    third = await kubelet.pod_of("train")
    kubelet.terminate(third, exit_code=0)
    await server.wait_for(lambda: reason(server, "Complete"))
    assert len({pod["metadata"]["uid"] for pod in (first, second, third)}) == 3
    assert "failed" not in status_of(server)


async def test_fail_job_rule_fails_at_once(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(backoffLimit=5, **POLICY))
    pod = await kubelet.pod_of("train")
    kubelet.terminate(pod, exit_code=11)
    await server.wait_for(lambda: reason(server, "Failed") == "PodFailurePolicy")
    failed = jobs.condition(server.get("jobs", "train", "default"), "Failed")
    name = pod["metadata"]["name"]
    expected = f"Container trainer for pod default/{name} failed with exit code 11 matching FailJob rule at index 2"
    assert failed is not None
    assert failed["message"] == expected


async def test_waiting_and_unschedulable_pods(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job())
    pod = await kubelet.pod_of("train")
    kubelet.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    (scheduled,) = server.objects("pods")[0]["status"]["conditions"]
    assert (scheduled["type"], scheduled["status"], scheduled["reason"]) == ("PodScheduled", "False", "Unschedulable")
    kubelet.waiting(pod, reason="ImagePullBackOff", message="no such image")
    current = server.objects("pods")[0]
    assert current["status"]["phase"] == "Pending"
    waiting = current["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting == {"reason": "ImagePullBackOff", "message": "no such image"}
    assert current["status"]["conditions"][0]["status"] == "True", "a pod that pulls its image has been scheduled"


async def test_a_suspended_job_has_no_pod_and_resumes_with_a_new_one(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job())
    first = await kubelet.pod_of("train")
    kubelet.start(first)
    server.patch("jobs", "train", "default", merge={"spec": {"suspend": True}})
    await server.wait_for(lambda: not server.objects("pods"))
    assert reason(server, "Suspended") == "JobSuspended"
    assert "failed" not in status_of(server), "what suspension stops has not failed"
    server.patch("jobs", "train", "default", merge={"spec": {"suspend": False}})
    second = await kubelet.pod_of("train")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert reason(server, "Suspended") is None


async def test_deleting_a_job_gives_its_pod_time_to_checkpoint(server: FakeApiServer, kubelet: Kubelet) -> None:
    signalled: list[str] = []

    def checkpoint(pod: dict[str, Any]) -> Termination:
        signalled.append(pod["metadata"]["name"])
        assert pod["metadata"]["deletionTimestamp"]
        return Termination(exit_code=40, message="checkpointed")

    kubelet.on_sigterm = checkpoint
    server.create(job())
    pod = await kubelet.pod_of("train")
    kubelet.start(pod)
    last: list[dict[str, Any]] = []
    server.store.listeners.append(lambda change: last.extend([change.old] if change.new is None and change.old else []))
    server.delete("jobs", "train", "default")
    await server.wait_for(lambda: not server.objects("pods"))
    assert signalled == [pod["metadata"]["name"]]
    gone = next(obj for obj in last if obj["kind"] == "Pod")
    assert gone["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 40


async def test_a_pod_that_is_slow_to_stop_holds_a_foreground_deletion(server: FakeApiServer, kubelet: Kubelet) -> None:
    kubelet.on_sigterm = lambda _: None
    server.create(job())
    pod = await kubelet.pod_of("train")
    kubelet.start(pod)
    server.delete("jobs", "train", "default", propagation="Foreground")
    await server.wait_for(lambda: server.objects("pods")[0]["metadata"].get("deletionTimestamp"))
    await asyncio.sleep(0.02)
    assert len(server.objects("jobs")) == 1
    kubelet.terminate(pod, exit_code=40)
    await server.wait_for(lambda: not server.objects("pods") and not server.objects("jobs"))


async def test_no_replacement_while_the_old_pod_holds_the_gpu(server: FakeApiServer, kubelet: Kubelet) -> None:
    kubelet.on_sigterm = lambda _: None
    server.create(job(**POLICY))
    pod = await kubelet.pod_of("train")
    kubelet.start(pod)
    kubelet.disrupt(pod)
    await server.wait_for(lambda: status_of(server).get("terminating") == 1)
    assert len(server.objects("pods")) == 1
    kubelet.terminate(pod, exit_code=137)
    replacement = await kubelet.pod_of("train")
    assert replacement["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_a_pod_deleted_by_hand_fails_its_job(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(**POLICY))
    pod = await kubelet.pod_of("train")
    server.delete("pods", pod["metadata"]["name"], "default")
    await server.wait_for(lambda: reason(server, "Failed") == "BackoffLimitExceeded")
    assert server.objects("pods") == []


async def test_deleting_the_owner_takes_job_and_pod(server: FakeApiServer, kubelet: Kubelet) -> None:
    owner = server.create(fine_tune())
    owned = job()
    owned["metadata"]["ownerReferences"] = [owner_reference(owner)]
    server.create(owned)
    kubelet.start(await kubelet.pod_of("train"))
    server.delete("lorafinetunes", "run", "default")
    await server.wait_for(lambda: not server.objects("jobs") and not server.objects("pods"))


async def test_deadline_and_ttl_follow_the_servers_clock() -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    async with FakeApiServer(clock=lambda: now[0]) as server, Kubelet(server) as kubelet:
        server.create(job(activeDeadlineSeconds=60, ttlSecondsAfterFinished=300))
        kubelet.start(await kubelet.pod_of("train"))
        now[0] += timedelta(seconds=61)
        kubelet.sync()
        assert reason(server, "Failed") == "DeadlineExceeded"
        assert status_of(server)["active"] == 0
        now[0] += timedelta(seconds=301)
        kubelet.sync()
        assert server.objects("jobs") == []


async def test_an_indexed_job_has_a_pod_for_each_index(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(completionMode="Indexed", completions=2, parallelism=2, backoffLimit=0))
    await server.wait_for(lambda: len(pods_by_index(server)) == 2)
    first, second = pods_by_index(server)
    assert [pod["spec"]["hostname"] for pod in (first, second)] == ["train-0", "train-1"]
    assert second["metadata"]["labels"][jobs.INDEX] == "1"
    assert second["metadata"]["name"].startswith("train-1-")
    kubelet.start(first)
    kubelet.terminate(second, exit_code=0)
    await server.wait_for(lambda: status_of(server).get("completedIndexes") == "1")
    assert len(pods_by_index(server)) == 2, "what is complete is not done again"
    kubelet.terminate(first, exit_code=0)
    await server.wait_for(lambda: reason(server, "Complete") == "CompletionsReached")


async def test_one_pod_of_several_that_fails_ends_the_others(server: FakeApiServer, kubelet: Kubelet) -> None:
    server.create(job(completionMode="Indexed", completions=2, parallelism=2, backoffLimit=0))
    await server.wait_for(lambda: len(pods_by_index(server)) == 2)
    first, second = pods_by_index(server)
    for pod in (first, second):
        kubelet.start(pod)
    kubelet.on_sigterm = lambda _: Termination(exit_code=40)
    kubelet.terminate(second, exit_code=30)
    await server.wait_for(lambda: reason(server, "Failed") == "BackoffLimitExceeded")
    ended = server.get("pods", second["metadata"]["name"], "default")["status"]
    assert ended["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 30


def pods_by_index(server: FakeApiServer) -> list[dict[str, Any]]:
    found = server.objects("pods", "default")
    return sorted(found, key=lambda pod: pod["metadata"]["annotations"][jobs.INDEX])
