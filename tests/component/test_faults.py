"""An API server in trouble, and an operator that dies at the worst moments: each attempt stays one Job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lora_operator import naming
from lora_operator.naming import Stage

from tests import installs
from tests.builders import CLASS_NAME, NAME, NAMESPACE, OUTPUT, class_spec, trained_text
from tests.component.world import RUNS, World, an_operator
from tests.fakes.faults import Fault, RecordedRequest

PREPARE, TRAIN = f"{NAME}-prepare-1", f"{NAME}-train-1"
STATUS = f"{naming.RUN_PLURAL}/status"
KOPF_GIVES_UP = "Multidimensional multitasker has failed"
LEASES = "leases.coordination.k8s.io"
WRITES = 11
"""Of a run whose pods are so quick that Training is never seen: four of status, a ConfigMap, two Jobs, four Events."""


def by_the_operator(request: RecordedRequest) -> bool:
    return request.is_write and request.user_agent == naming.FIELD_MANAGER


def for_a_run(request: RecordedRequest) -> bool:
    """Whether it is a write for a run. Those of the Lease and of the status of classes come at any time."""
    return by_the_operator(request) and not request.resource.startswith((LEASES, naming.CLASS_PLURAL))


def assert_done_once(world: World) -> None:
    assert world.created_jobs() == [PREPARE, TRAIN], "one Job per attempt, whatever happened"
    attempts = [(a["stage"], a["number"], a["reason"]) for a in world.status()["attempts"]]
    assert attempts == [("prepare", 1, "Succeeded"), ("train", 1, "Succeeded")]


# --- the operator dies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("number", range(WRITES))
async def test_an_operator_that_dies_around_any_write_is_replaced(
    bare_world: World, kubeconfig: Path, number: int, committed: bool
) -> None:
    world = bare_world
    last: dict[str, Any] = {"drop_connection": True, "committed": committed, "when": for_a_run}
    dying = world.server.faults.add(Fault(after=number, count=1, **last))
    async with world.kind_cluster():
        async with an_operator(world, kubeconfig):
            # From its last write on, nothing of it reaches the API server.
            world.apply()
            await world.server.wait_for(lambda: dying.hits == 1, what=f"write {number}")
            world.server.faults.add(Fault(drop_connection=True, count=None, when=by_the_operator))
        world.server.faults.clear()
        # The next operator would wait until the Lease of the dead one runs out. test_leadership.py shows that it does.
        world.server.delete(LEASES, naming.LEASE_NAME, installs.HOME)
        async with an_operator(world, kubeconfig):
            await world.until("AdapterPublished")
            await world.settle()
    assert_done_once(world)


async def test_an_operator_that_was_away_catches_up(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    world.apply()
    async with an_operator(world, kubeconfig):
        await world.prepare()
        pod = await world.start(Stage.TRAIN)
        await world.until("Training")
    world.kubelet.terminate(pod, exit_code=0, message=trained_text())
    async with an_operator(world, kubeconfig):
        await world.until("AdapterPublished")
    assert_done_once(world)
    assert world.story() == ["Preparing", "Starting", "Training", "AdapterPublished"]


async def test_a_pod_that_only_looks_like_ours_stops_nobody(bare_world: World, kubeconfig: Path) -> None:
    """Any tenant may set our label: the first LIST of an operator that starts must survive that."""
    world = bare_world
    labels = {naming.MANAGED_BY_LABEL: naming.MANAGED_BY}
    metadata = {"name": "forged", "namespace": NAMESPACE, "labels": labels}
    spec = {"containers": [{"name": "any", "image": "any"}]}
    world.server.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    world.apply()
    async with an_operator(world, kubeconfig):
        await world.prepare()
        await world.train()
        await world.until("AdapterPublished")


async def test_a_start_beside_runs_that_are_done_writes_nothing(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with world.kind_cluster(), an_operator(world, kubeconfig):
        world.apply()
        await world.until("AdapterPublished")
        await world.settle()
    before = len(world.writes())
    async with an_operator(world, kubeconfig):
        await world.settle()
    assert len(world.writes()) == before


# --- requests fail ------------------------------------------------------------------------------------------------

REFUSALS = [
    ("create", "jobs", {"status": 500}),
    ("create", "jobs", {"status": 500, "committed": True}),
    ("create", "jobs", {"drop_connection": True, "committed": True}),
    ("create", "jobs", {"status": 429, "retry_after": 1}),
    ("create", "configmaps", {"status": 503}),
    ("patch", STATUS, {"status": 409, "reason": "Conflict"}),
    ("patch", STATUS, {"status": 429, "retry_after": 1}),
    ("patch", STATUS, {"status": 500}),
    ("patch", STATUS, {"status": 500, "committed": True}),
    ("patch", STATUS, {"drop_connection": True}),
    ("get", naming.RUN_PLURAL, {"status": 500}),
    ("list", "pods", {"status": 503}),
]


@pytest.mark.parametrize(("verb", "resource", "effect"), REFUSALS, ids=lambda value: str(value).replace(" ", ""))
async def test_a_request_that_fails_is_made_again(
    world: World, verb: str, resource: str, effect: dict[str, Any]
) -> None:
    fault = world.server.faults.add(Fault(verb=verb, resource=resource, count=2, **effect))
    async with world.kind_cluster():
        world.apply()
        await world.until("AdapterPublished")
    assert fault.hits == 2
    assert_done_once(world)


async def test_throttling_is_obeyed(world: World) -> None:
    """Of the first write. Later ones may come earlier, where a watch reports something meanwhile."""
    world.server.faults.add(Fault(verb="patch", resource=STATUS, status=429, retry_after=1))
    world.apply()
    await world.until("Preparing")
    first, second, *_ = [r.received for r in world.writes() if r.verb == "patch"]
    assert second - first >= 1.0


async def test_a_config_map_of_ours_that_is_there_already_says_what_the_run_was_resolved_to(
    bare_world: World, kubeconfig: Path
) -> None:
    world = bare_world
    dying = world.server.faults.add(Fault(verb="create", resource="configmaps", status=500, committed=True))
    world.server.faults.add(Fault(verb="create", resource="jobs", status=500, count=None))
    async with an_operator(world, kubeconfig):
        world.apply()
        await world.server.wait_for(lambda: dying.hits == 1, what="the ConfigMap")
    world.server.faults.clear()
    world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"image": "registry.example/newer:2"}})
    async with world.kind_cluster(), an_operator(world, kubeconfig):
        await world.until("AdapterPublished")
    images = {pod["spec"]["containers"][0]["image"] for pod in world.server.objects("pods", NAMESPACE)}
    assert images == {class_spec()["image"]}
    assert_done_once(world)


async def test_a_job_of_ours_that_is_there_already_counts_as_created(world: World) -> None:
    world.server.faults.add(Fault(verb="create", resource="jobs", status=500, committed=True))
    world.apply()
    await world.until("Preparing")
    creates = [r.status for r in world.writes() if r.resource == "jobs.batch"]
    assert creates in ([500, 409], [500]), "either it is found in the list, or the second create says so"
    assert world.created_jobs() == [PREPARE]


# --- watches fail -------------------------------------------------------------------------------------------------


async def test_an_outage_in_mid_run_costs_time_only(world: World) -> None:
    pod = await world.begin_training()
    with world.server.outage():
        world.kubelet.terminate(pod, exit_code=0, message=trained_text())
        await asyncio.sleep(0.3)
    await world.until("AdapterPublished")
    assert_done_once(world)


@pytest.mark.parametrize("kind", [RUNS, "jobs.batch", "pods"])
async def test_dropped_watches_lose_nothing(world: World, kind: str) -> None:
    async def cut() -> None:
        while True:
            world.server.drop_watches(kind)
            await asyncio.sleep(0.1)

    cutting = asyncio.create_task(cut())
    async with world.kind_cluster():
        world.apply()
        await world.until("AdapterPublished")
    cutting.cancel()
    assert_done_once(world)


async def test_events_of_pods_that_come_late_are_waited_for(world: World) -> None:
    pod = await world.begin_training()
    with world.server.hold_events("pods"):
        world.kubelet.terminate(pod, exit_code=0, message=trained_text())
        await world.until("AdapterPublished")
    assert_done_once(world)


async def test_a_job_that_went_unseen_is_missed_at_the_next_resync(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig, resync_seconds=1):
        await world.begin_training()
        with world.server.lose_events("jobs"), world.server.lose_events("pods"):
            world.server.delete("jobs", TRAIN, NAMESPACE)
            await world.server.wait_for(lambda: TRAIN not in world.jobs())
        await world.until("BackingOff")
        assert world.status()["attempts"][-1]["reason"] == "JobDeleted"


async def test_a_run_that_went_unseen_frees_its_output_at_the_next_resync(bare_world: World, kubeconfig: Path) -> None:
    world = bare_world
    async with an_operator(world, kubeconfig, resync_seconds=1):
        world.apply("older")
        await world.until("Preparing", "older")
        world.apply("younger", output={"uri": OUTPUT})
        await world.until("OutputInUse", "younger")
        with world.server.watches_down(naming.RUN_PLURAL):
            world.server.delete(naming.RUN_PLURAL, "older", NAMESPACE)
            await asyncio.sleep(0.1)
            world.server.compact()
        await world.until("Preparing", "younger")


async def test_410_makes_kopf_list_again(world: World) -> None:
    world.apply()
    await world.until("Preparing")
    with world.server.watches_down("pods"), world.server.watches_down("jobs"):
        pod = await world.start(Stage.PREPARE)
        world.server.compact()
        await asyncio.sleep(0.1)
    world.kubelet.terminate(pod, exit_code=0, message="")
    await world.until("BackingOff")
    assert world.status()["attempts"][-1]["reason"] == "OutcomeMissing"


async def test_an_error_in_a_watch_ends_the_process_and_its_successor_goes_on(
    bare_world: World, kubeconfig: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = bare_world

    async def until_a_watch_breaks() -> None:
        async with an_operator(world, kubeconfig):
            world.apply()
            await world.until("Preparing")
            world.server.fail_watches("jobs", code=500)
            # Only then does the process end by itself: one that is stopped before ends without an error.
            await world.server.wait_for(
                lambda: any(line.getMessage().startswith(KOPF_GIVES_UP) for line in caplog.records),
                what="Kopf's root task to fail",
            )

    with pytest.raises(Exception, match="watch-stream"):
        await until_a_watch_breaks()
    async with an_operator(world, kubeconfig):
        await world.prepare()
        await world.train()
        await world.until("AdapterPublished")
    assert_done_once(world)


# --- deletion -----------------------------------------------------------------------------------------------------


async def bring_to(world: World, state: str) -> None:
    """Bring the run to a state by its reason."""
    world.apply(suspend=state == "SuspendedByUser")
    if state in ("Starting", "Training", "AdapterPublished", "BackingOff", "Stopping"):
        await world.prepare()
    if state in ("Training", "Stopping"):
        await world.start(Stage.TRAIN)
        await world.until("Training")
    if state == "Stopping":
        world.kubelet.on_sigterm = lambda _: None
        world.edit(suspend=True)
    if state == "AdapterPublished":
        await world.train()
    if state == "BackingOff":
        await world.end(Stage.TRAIN, code=50)
    if state == "StorageDenied":
        await world.end(Stage.PREPARE, code=17)
    await world.until(state)


STATES = [
    "Preparing",
    "Starting",
    "Training",
    "Stopping",
    "SuspendedByUser",
    "BackingOff",
    "StorageDenied",
    "AdapterPublished",
]


@pytest.mark.parametrize("state", STATES)
async def test_a_run_can_be_deleted_in_every_state(world: World, state: str) -> None:
    await bring_to(world, state)
    world.kubelet.on_sigterm = lambda _: None
    await world.settle()
    before = len(world.writes())
    world.server.delete(naming.RUN_PLURAL, NAME, NAMESPACE)
    world.kubelet.sync()
    for pod in world.server.objects("pods", NAMESPACE):
        if pod["status"]["phase"] == "Running":
            world.kubelet.terminate(pod, exit_code=40)
    gone = ("jobs", "pods", "configmaps")
    await world.server.wait_for(lambda: not any(world.server.objects(kind, NAMESPACE) for kind in gone))
    await world.settle()
    assert len(world.writes()) == before, "its children go by themselves; the operator has nothing to do"


async def test_a_run_of_the_same_name_starts_afresh(world: World) -> None:
    await bring_to(world, "Training")
    world.server.delete(naming.RUN_PLURAL, NAME, NAMESPACE)
    await world.server.wait_for(lambda: not world.server.objects("jobs", NAMESPACE))
    world.apply()
    async with world.kind_cluster():
        await world.until("AdapterPublished")
    assert world.created_jobs() == [PREPARE, TRAIN, PREPARE, TRAIN]


async def test_a_run_of_the_same_name_waits_for_what_its_predecessor_left(world: World) -> None:
    await bring_to(world, "Training")
    world.server.gc_paused = True
    world.server.delete(naming.RUN_PLURAL, NAME, NAMESPACE)
    world.apply()
    await world.until("NameTaken")
    world.server.gc_paused = False
    world.server.delete("jobs", PREPARE, NAMESPACE)
    await world.until("Preparing")
