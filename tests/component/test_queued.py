"""A train Job that a queue holds back, on the fake cluster: what the run shows, and what is asked for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lora_operator.naming import Stage

from tests.builders import NAME, NAMESPACE, class_body
from tests.component.world import CRDS, World, a_world, an_operator
from tests.fakes import kueue
from tests.fakes.faults import Fault

TRAIN = f"{NAME}-train-1"
QUEUE = "gpus"


@pytest.fixture
async def world(kubeconfig: Path) -> AsyncIterator[World]:
    """A world with Kueue, whose operator asks it often."""
    async with (
        a_world(crds=[*CRDS, *kueue.CRDS]) as world,
        an_operator(world, kubeconfig, queue_poll_seconds=0.1),
    ):
        yield world


async def queued(world: World, **spec: Any) -> None:
    """The train Job is held back."""
    world.apply(queueName=QUEUE, **spec)
    await world.prepare()
    await world.pod(Stage.TRAIN)
    kueue.suspend(world.server, TRAIN, NAMESPACE)
    await world.until("Queued")


async def told(world: World, words: str) -> None:
    """Ready says so, and Suspended with it."""
    await world.server.wait_for(lambda: words in world.condition("Ready")["message"], what=words)
    suspended = world.condition("Suspended")
    assert (suspended["status"], suspended["reason"]) == ("True", "Queued")
    assert words in suspended["message"]


def asked(world: World) -> set[str]:
    """What of Kueue's was asked for."""
    paths = {request.path for request in world.server.requests}
    return {path for path in paths if kueue.GROUP in path}


async def test_the_position_is_told_as_it_changes(world: World) -> None:
    await queued(world)
    kueue.refuse(world.server, TRAIN, NAMESPACE, message="insufficient unused quota for nvidia.com/gpu")
    kueue.line_up(world.server, QUEUE, NAMESPACE, jobs=("another", TRAIN))
    await told(world, f"{TRAIN} waits in LocalQueue {QUEUE} at position 2")
    await told(world, "Kueue says: insufficient unused quota for nvidia.com/gpu.")
    kueue.line_up(world.server, QUEUE, NAMESPACE, jobs=(TRAIN,))
    await told(world, "at position 1")
    kueue.suspend(world.server, TRAIN, NAMESPACE, yes=False)
    await world.train()
    await world.until("AdapterPublished")
    assert world.condition("Suspended")["status"] == "False"
    assert world.story().count("Queued") <= 4, "one write for each change"


async def test_a_missing_queue_is_named(world: World) -> None:
    await queued(world)
    kueue.refuse(world.server, TRAIN, NAMESPACE, message="LocalQueue gpus doesn't exist")
    await told(world, "Kueue says: LocalQueue gpus doesn't exist.")


async def test_what_kueue_has_not_taken_up_is_told(world: World) -> None:
    await queued(world, workloadPriorityClassName="none")
    await told(world, "the run's WorkloadPriorityClass does not exist")


@pytest.mark.parametrize("code", [403, 404])
async def test_without_the_rights_or_the_api_the_position_is_unknown(world: World, code: int) -> None:
    kinds = ("workloads", "localqueues/pendingworkloads")
    faults = [world.server.faults.add(Fault(resource=kind, status=code, count=None)) for kind in kinds]
    await queued(world)
    kueue.line_up(world.server, QUEUE, NAMESPACE, jobs=(TRAIN,))
    await world.server.wait_for(lambda: all(fault.hits >= 5 for fault in faults))
    message = f"Job {TRAIN} waits in LocalQueue {QUEUE}. It starts when the queue has room."
    assert world.condition("Ready")["message"] == message


async def test_what_was_known_outlasts_a_failing_api_server(world: World) -> None:
    await queued(world)
    kueue.line_up(world.server, QUEUE, NAMESPACE, jobs=(TRAIN,))
    await told(world, "at position 1")
    fault = world.server.faults.add(Fault(resource="workloads", status=503, count=5))
    await world.server.wait_for(lambda: fault.hits == 5)
    assert "at position 1" in world.condition("Ready")["message"]


async def test_a_class_names_the_queue_of_runs_that_name_none(kubeconfig: Path) -> None:
    async with a_world(default_class=False) as world, an_operator(world, kubeconfig, queue_poll_seconds=0.1):
        world.server.create(class_body(defaults={"queueName": "default-queue"}))
        world.apply()
        world.apply("other", queueName=QUEUE, output={"uri": "s3://team-a/other"})
        for name, queue in ((NAME, "default-queue"), ("other", QUEUE)):
            await world.prepare(name=name)
            await world.start(Stage.TRAIN, name=name)
            await world.until("Training", name)
            labels = world.server.get("jobs", f"{name}-train-1", NAMESPACE)["metadata"]["labels"]
            assert labels["kueue.x-k8s.io/queue-name"] == queue
        assert asked(world) == set(), "without Kueue nothing is asked of it"


async def test_a_preempted_pod_writes_its_checkpoint_and_the_run_waits_again(world: World) -> None:
    world.kubelet.on_sigterm = lambda _: None  # it is busy with its checkpoint
    world.apply(queueName=QUEUE, retryLimit=0)
    await world.prepare()
    pod = await world.start(Stage.TRAIN)
    await world.until("Training")
    kueue.suspend(world.server, TRAIN, NAMESPACE)
    await told(world, f"The queue preempted pod {pod['metadata']['name']}")
    world.kubelet.terminate(pod, exit_code=40)
    await told(world, f"Job {TRAIN} waits in LocalQueue {QUEUE}")
    kueue.suspend(world.server, TRAIN, NAMESPACE, yes=False)
    await world.train()
    status = await world.until("AdapterPublished")
    assert [attempt["reason"] for attempt in status["attempts"]] == ["Succeeded", "Succeeded"]
