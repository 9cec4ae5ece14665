"""What controllers, nodes and people do to the children of runs. Each function returns whether it found something to
hit."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from lora_operator import naming
from lora_operator.naming import Stage

from tests.builders import NAMESPACE
from tests.fakes.jobs import is_finished
from tests.faults.invariants import terminal
from tests.faults.trainers import Work, attempt_of, of_a_job
from tests.faults.world import World

Obj = dict[str, Any]


# --- controllers and nodes -------------------------------------------------------------------------------------------


def collectors_away(world: World, rng: Random) -> bool:
    """Nobody collects garbage for a while."""
    if world.server.gc_paused:
        return False

    async def pass_by() -> None:
        world.server.gc_paused = True
        await asyncio.sleep(rng.uniform(2, 40))
        world.server.resume_gc()

    world.spawn(pass_by())
    return True


def controllers_away(world: World, rng: Random) -> bool:
    """Nobody reconciles Jobs for a while."""
    if "controllers" in world.held:
        return False

    async def pass_by() -> None:
        world.held.add("controllers")
        with world.trainers.kubelet.away():
            await asyncio.sleep(rng.uniform(2, 40))
        world.held.discard("controllers")

    world.spawn(pass_by())
    return True


def drain(world: World, rng: Random) -> bool:
    """A pod is evicted by API: its node is drained, or it is preempted."""
    work = _work(world, rng)
    if work is not None:
        disturb(world, work.pod, "PodLost", "Disrupted")
        world.trainers.kubelet.disrupt(work.pod)
    return work is not None


def pressure(world: World, rng: Random) -> bool:
    """The kubelet evicts a pod."""
    work = _work(world, rng)
    if work is not None:
        disturb(world, work.pod, "Killed", "Disrupted")
        work.over = True
        world.trainers.kubelet.press(work.pod)
    return work is not None


def preempt(world: World, rng: Random) -> bool:
    """A queue takes a Job's quota away and gives it back: it suspends the Job, as Kueue does."""
    jobs = [job for job in _busy(world, "jobs") if not (is_finished(job) or job["spec"]["suspend"])]
    if not jobs:
        return False
    job = rng.choice(jobs)
    name, seconds = job["metadata"]["name"], rng.uniform(5, 60)
    disturb(world, job, "PodLost", "Disrupted")

    async def pass_by() -> None:
        for suspend in (True, False):
            found = world.server.find("jobs", name, NAMESPACE)
            if found is not None and found["metadata"]["uid"] == job["metadata"]["uid"] and not is_finished(found):
                world.server.patch("jobs", name, NAMESPACE, merge={"spec": {"suspend": suspend}})
            await asyncio.sleep(seconds)

    world.spawn(pass_by())
    return True


def lose_node(world: World, rng: Random) -> bool:
    """A node is lost: its pod is marked for deletion, stays for minutes, and is collected at last."""
    work = _work(world, rng)
    if work is None:
        return False
    disturb(world, work.pod, "PodLost", "Disrupted")

    async def pass_by() -> None:
        await _lose(world, work)
        await asyncio.sleep(rng.uniform(30, 300))
        if world.trainers.there(work.pod) is not None:
            world.trainers.kubelet.lose(work.pod)

    world.spawn(pass_by())
    return True


def lose_node_for_good(world: World, rng: Random) -> bool:
    """A node is lost, and nobody collects its pods: there is no cloud that deletes its Node. A person who is told does
    (`people.py`)."""
    work = _work(world, rng)
    if work is None:
        return False
    disturb(world, work.pod, "PodLost", "Disrupted", "Killed")

    world.spawn(_lose(world, work))
    return True


async def _lose(world: World, work: Work) -> None:
    """Nothing is heard of the node any more, and the control plane marks the pod for deletion after a while."""
    work.lost = True
    await asyncio.sleep(40)
    if world.trainers.there(work.pod) is not None:
        world.server.delete("pods", work.pod["metadata"]["name"], NAMESPACE)


def evict_in_a_row(world: World, rng: Random) -> bool:
    """The kubelet evicts a run's pods, one after the other, each before it has done much."""
    work = _work(world, rng)
    if work is None:
        return False
    world.spawn(evictions(world, attempt_of(work.pod)[0], times=rng.randint(4, 8)))
    return True


async def evictions(world: World, uid: str, *, times: int) -> None:
    """So many train pods of a run are evicted soon after they have started, and not before an operator can see them."""
    seen: set[str] = set()
    while times > 0:
        await asyncio.sleep(0.5)
        run = next((run for run in world.runs() if run["metadata"]["uid"] == uid), None)
        if run is None or terminal(run):
            return
        for work in tuple(world.trainers.working.values()):
            name = work.pod["metadata"]["name"]
            if attempt_of(work.pod)[:2] != (uid, Stage.TRAIN) or not _is_at_work(world, work):
                continue
            if name in seen:
                disturb(world, work.pod, "Killed", "Disrupted", "PodLost")
                work.over = True
                world.trainers.kubelet.press(work.pod)
                times -= 1
            seen.add(name)


def inject_sidecars(world: World, rng: Random) -> bool:
    """For a while, a webhook injects into new pods a container that never ends by itself."""
    if world.trainers.injecting:
        return False

    async def pass_by() -> None:
        world.trainers.injecting = True
        await asyncio.sleep(rng.uniform(5, 30))
        world.trainers.injecting = False

    world.spawn(pass_by())
    return True


def foreign_pod(world: World, rng: Random) -> bool:
    """Somebody makes a pod with the labels of a run's pods, which no Job of the run owns, and may remove it later."""
    pods = _busy(world, "pods")
    if not pods:
        return False
    like = rng.choice(pods)["metadata"]
    labels = like["labels"] | rng.choice(({}, {naming.ATTEMPT_LABEL: "first"}))
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "mine", "uid": "mine", "controller": True}
    name = f"foreign-{rng.randint(0, 10**9)}"
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    metadata |= rng.choice(({}, {"ownerReferences": [owner]}))
    container = {"name": naming.CONTAINER, "image": "registry.example/other:1"}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    pod = world.server.create(body)
    if rng.random() < 0.5:
        world.trainers.kubelet.start(pod)

    async def pass_by() -> None:
        await asyncio.sleep(rng.uniform(5, 60))
        if world.server.find("pods", name, NAMESPACE) is not None:
            world.server.delete("pods", name, NAMESPACE)

    if rng.random() < 0.5:
        world.spawn(pass_by())
    return True


def lose_pod(world: World, rng: Random) -> bool:
    """A pod vanishes and nobody knows why."""
    work = _work(world, rng)
    if work is not None:
        disturb(world, work.pod, "PodLost")
        work.lost = True
        world.trainers.kubelet.lose(work.pod, disrupted=False)
    return work is not None


def sweep(world: World, rng: Random) -> bool:
    """A pod is removed as soon as it has ended: a drain or a pod collector passes by."""
    work = _work(world, rng)
    if work is None:
        return False

    async def pass_by() -> None:
        for _ in range(10_000):
            if work.over or work.lost or world.trainers.there(work.pod) is None:
                break
            await asyncio.sleep(0.1)
        if work.over and world.trainers.there(work.pod) is not None:
            disturb(world, work.pod, "PodLost", "Disrupted")
            world.server.delete("pods", work.pod["metadata"]["name"], NAMESPACE)

    world.spawn(pass_by())
    return True


# --- people ---------------------------------------------------------------------------------------------------------


def delete_pod(world: World, rng: Random) -> bool:
    """`kubectl delete pod`."""
    pods = _busy(world, "pods")
    if not pods:
        return False
    pod = rng.choice(pods)
    disturb(world, pod, "PodLost", "Disrupted")
    world.server.delete("pods", pod["metadata"]["name"], NAMESPACE)
    return True


def delete_job(world: World, rng: Random) -> bool:
    """`kubectl delete job`, which leaves its pod to the garbage collector, or in the foreground."""
    jobs = _busy(world, "jobs")
    if not jobs:
        return False
    job = rng.choice(jobs)
    disturb(world, job, "JobDeleted")
    propagation = rng.choice(("Background", "Background", "Foreground"))
    world.server.delete("jobs", job["metadata"]["name"], NAMESPACE, propagation=propagation)
    return True


def delete_something(world: World, rng: Random) -> bool:
    """By hand."""
    return rng.choice((delete_job, delete_pod))(world, rng)


def touch(world: World, rng: Random) -> bool:
    """Somebody labels a run: all that was planned for its old version is refused."""
    runs = [run for run in world.runs() if not terminal(run)]
    if not runs:
        return False
    merge = {"metadata": {"labels": {"touched": str(rng.randint(0, 10**9))}}}
    world.server.patch(naming.RUN_PLURAL, rng.choice(runs)["metadata"]["name"], NAMESPACE, merge=merge)
    return True


def disturb(world: World, child: Obj, *reasons: str) -> None:
    """What befalls this child may end its attempt with one of these. A pod that is deleted may take its termination
    message with it, whatever that was."""
    attempt = attempt_of(child)
    world.trainers.truth.disturbed.add(attempt[0])
    world.trainers.truth.ends[attempt].update(reasons)


def _busy(world: World, resource: str) -> list[Obj]:
    """The children of this kind whose runs go on, and which nobody has deleted."""
    found = world.server.objects(resource, NAMESPACE)
    return [child for child in found if (resource != "pods" or of_a_job(child)) and _is_busy(world, child)]


def _is_busy(world: World, child: Obj) -> bool:
    run = world.run(child["metadata"]["labels"][naming.RUN_LABEL])
    return run is not None and not terminal(run) and not child["metadata"].get("deletionTimestamp")


def _work(world: World, rng: Random) -> Work | None:
    """A pod that runs and that nothing has befallen yet."""
    found = [work for work in world.trainers.working.values() if _is_at_work(world, work)]
    found = [work for work in found if work.stage is Stage.TRAIN or rng.random() < 0.3]
    return rng.choice(found) if found else None


def _is_at_work(world: World, work: Work) -> bool:
    pod = world.trainers.there(work.pod)
    return not (work.over or work.lost) and pod is not None and _is_busy(world, pod)
