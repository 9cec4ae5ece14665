"""From apply to Ready=True, and what it costs."""

from __future__ import annotations

import time

from lora_operator.naming import Stage
from lora_trainer.contract.progress import Phase, Progress

from tests import kstatus
from tests.builders import DIGEST, NAME, NAMESPACE, OUTPUT, an_artifact, trained_text
from tests.component.world import World, a_progress_server, local_address
from tests.fakes.faults import Fault, RecordedRequest


async def test_apply_to_ready_in_thirteen_writes(world: World) -> None:
    began = time.perf_counter()
    world.apply()
    await world.server.wait_for(lambda: world.jobs() == [f"{NAME}-prepare-1"])
    print(f"\napply -> prepare Job created: {time.perf_counter() - began:.3f} s")
    await world.until("Preparing")
    await world.prepare()
    await world.until("Starting")
    pod = await world.start(Stage.TRAIN)
    await world.until("Training")
    assert world.condition("Running")["status"] == "True"
    ended = time.perf_counter()
    world.kubelet.terminate(pod, exit_code=0, message=trained_text())
    status = await world.until("AdapterPublished")
    print(f"trainer exit -> Ready=True: {time.perf_counter() - ended:.3f} s")
    await world.settle()
    assert kstatus.kstatus(world.run()) == "Current"
    assert status["artifact"]["uri"] == f"{OUTPUT}/{DIGEST}"
    assert [(a["stage"], a["number"], a["reason"]) for a in status["attempts"]] == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
    ]
    assert world.story() == ["Preparing", "Starting", "Training", "AdapterPublished"]
    kinds = [(write.verb, write.resource.partition(".")[0]) for write in world.writes()]
    assert kinds.count(("create", "jobs")) == 2
    assert kinds.count(("create", "configmaps")) == 1
    assert kinds.count(("patch", "lorafinetunes")) == 5, "the record, and four changes of Ready"
    assert kinds.count(("create", "events")) == 5
    assert len(kinds) == 13, kinds


async def test_the_operator_writes_nothing_of_the_users(world: World) -> None:
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    run = world.run()
    owned = [(entry["manager"], entry.get("subresource")) for entry in run["metadata"]["managedFields"]]
    assert ("lora-operator", "status") in owned
    assert [subresource for manager, subresource in owned if manager == "lora-operator"] == ["status"]
    assert "finalizers" not in run["metadata"]
    assert "annotations" not in run["metadata"]
    targets = {(w.resource, w.subresource) for w in world.writes()}
    assert ("lorafinetunes.lora-operator.io", "") not in targets


async def test_events_tell_the_story(world: World) -> None:
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    await world.settle()
    events = [event for event in world.server.objects("events", NAMESPACE) if event["involvedObject"]["name"] == NAME]
    reasons = [event["reason"] for event in events]
    assert set(reasons) >= {"Preparing", "AdapterPublished"}
    assert len(reasons) == len(set(reasons)), "each is told once"
    assert {event["type"] for event in events} == {"Normal"}


def status_writes(world: World) -> list[RecordedRequest]:
    return [write for write in world.writes() if write.subresource == "status"]


async def test_progress_is_polled_and_shown(world: World) -> None:
    ip = local_address()
    async with a_progress_server(ip) as answers:
        answers.now = Progress(phase=Phase.TRAINING, step=120, total_steps=600, loss=0.713, eta_seconds=860)
        world.apply()
        await world.prepare()
        pod = await world.start(Stage.TRAIN, ip=ip)
        await world.server.wait_for(lambda: world.status().get("progress"))
        progress = world.status()["progress"]
        assert (progress["steps"], progress["loss"], progress["eta"]) == ("120/600", 0.713, "14m")
        before = len(status_writes(world))
        answers.now = Progress(phase=Phase.TRAINING, step=121, total_steps=600, loss=0.7, eta_seconds=850)
        await world.settle(0.6)
        assert len(status_writes(world)) == before, "at most one write in ten seconds"
        world.clock.advance(11)
        await world.server.wait_for(lambda: world.status()["progress"]["step"] == 121)
        world.kubelet.terminate(pod, exit_code=0, message=trained_text())
        status = await world.until("AdapterPublished")
        assert status["progress"]["steps"] == "600/600"
        assert "eta" not in status["progress"]


async def test_an_adapter_that_is_published_already_takes_no_train_job(world: World) -> None:
    world.apply()
    await world.prepare(artifact=an_artifact())
    status = await world.until("AdapterReused")
    assert world.created_jobs() == [f"{NAME}-prepare-1"]
    assert status["evaluation"]["loss"] == 0.6
    assert kstatus.kstatus(world.run()) == "Current"


async def test_a_lost_event_write_is_not_retried_and_harms_nothing(world: World) -> None:
    fault = world.server.faults.add(Fault(verb="create", resource="events", status=500, count=None))
    world.apply()
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    await world.settle()
    assert fault.hits == len(world.story()) + 1, "one for each word, and one for what prepare found"
