"""What tenants and platform teams do beside their runs. Each function returns whether it found something to do."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

from lora_operator import naming
from lora_operator.workloads.resolved import digest_of

from tests.builders import CLASS_NAME, NAMESPACE, class_spec
from tests.faults.invariants import FORGED_IMAGE, terminal
from tests.faults.world import World

Obj = dict[str, Any]
OTHER_IMAGE = "registry.example/lora-trainer:0.2.0"


def forge_config_map(world: World, rng: Random) -> bool:
    """A tenant puts a ConfigMap with a class of their own in the place of a run's, and takes it away later."""
    run = _unfinished(world, rng)
    if run is None:
        return False
    owner = {"apiVersion": naming.API_VERSION, "kind": naming.RUN_KIND, "name": run["metadata"]["name"]}
    owner |= {"uid": run["metadata"]["uid"], "controller": True}
    data = {"className": CLASS_NAME, "class.json": json.dumps(class_spec(image=FORGED_IMAGE)), "run.json": "{}"}
    return _put(world, rng, run, {"ownerReferences": [owner]}, data)


def take_config_map_name(world: World, rng: Random) -> bool:
    """A tenant has a ConfigMap of that name, and takes it away later."""
    run = _unfinished(world, rng)
    return run is not None and _put(world, rng, run, {}, {"of": "somebody"})


def delete_config_map(world: World, rng: Random) -> bool:
    """`kubectl delete configmap`, which somebody repairs later."""
    run = _unfinished(world, rng)
    if run is None or not _delete(world, run):
        return False
    world.spawn(_repair(world, run, None, after=rng.uniform(1, 60)))
    return True


def change_class(world: World, rng: Random) -> bool:
    """The platform team changes the class, and back again."""
    if "class" in world.held:
        return False

    async def pass_by() -> None:
        world.held.add("class")
        world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"image": OTHER_IMAGE}})
        await asyncio.sleep(rng.uniform(1, 60))
        world.server.patch(naming.CLASS_PLURAL, CLASS_NAME, merge={"spec": {"image": class_spec()["image"]}})
        world.held.discard("class")

    world.spawn(pass_by())
    return True


def _unfinished(world: World, rng: Random) -> Obj | None:
    runs = [run for run in world.runs() if not terminal(run) and "deletionTimestamp" not in run["metadata"]]
    return rng.choice(runs) if runs else None


def _put(world: World, rng: Random, run: Obj, metadata: Obj, data: dict[str, str]) -> bool:
    _delete(world, run)
    metadata = {"name": _name(run), "namespace": NAMESPACE} | metadata
    made = world.server.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    world.spawn(_repair(world, run, made, after=rng.uniform(1, 60)))
    return True


def _delete(world: World, run: Obj) -> bool:
    """Delete the ConfigMap of the run, and keep it if it is the true one."""
    there = _config_map(world, run)
    if there is None:
        return False
    if digest_of(there["data"]) == run.get("status", {}).get("resolvedDigest"):
        world.kept[run["metadata"]["uid"]] = there
    world.server.delete("configmaps", there["metadata"]["name"], NAMESPACE)
    return True


async def _repair(world: World, run: Obj, made: Obj | None, *, after: float) -> None:
    """Take away what was made and restore what was kept: a run whose class changed meanwhile cannot do without."""
    await asyncio.sleep(after)
    there, uid = _config_map(world, run), run["metadata"]["uid"]
    if there is not None and made is not None and there["metadata"]["uid"] == made["metadata"]["uid"]:
        world.server.delete("configmaps", there["metadata"]["name"], NAMESPACE)
        there = None
    now, kept = world.run(run["metadata"]["name"]), world.kept.get(uid)
    if there is None and kept is not None and now is not None and now["metadata"]["uid"] == uid and not terminal(now):
        metadata = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "ownerReferences")}
        world.server.create(kept | {"metadata": metadata})


def _name(run: Obj) -> str:
    return naming.config_map_name(run["metadata"]["name"], run["metadata"]["uid"])


def _config_map(world: World, run: Obj) -> Obj | None:
    return world.server.find("configmaps", _name(run), NAMESPACE)
