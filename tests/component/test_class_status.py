"""The operator writes the status of classes."""

from __future__ import annotations

from typing import Any

from lora_operator import naming
from lora_operator.naming import Stage

from tests.builders import CLASS_NAME
from tests.component.world import World


def status(world: World) -> dict[str, Any]:
    return world.server.get(naming.CLASS_PLURAL, CLASS_NAME).get("status", {})


async def test_a_class_counts_its_runs_and_is_left_alone_while_nothing_changes(world: World) -> None:
    world.apply()
    await world.until("Preparing")
    await world.server.wait_for(lambda: status(world).get("unfinishedRuns") == 1, timeout=30, what="the count of runs")
    assert {condition["type"]: condition["status"] for condition in status(world)["conditions"]} == {
        "Ready": "True",
        "Stalled": "False",
    }
    pod = await world.pod(Stage.PREPARE)
    world.kubelet.waiting(pod, reason="ErrImagePull", message="no such image")
    problem = [{"reason": "ImagePullFailed", "runs": 1}]
    await world.server.wait_for(lambda: status(world).get("problems") == problem, timeout=30, what="the problem")
    await world.prepare()
    await world.train()
    await world.until("AdapterPublished")
    await world.server.wait_for(lambda: status(world).get("unfinishedRuns") == 0, timeout=30, what="the count of runs")
    assert len([write for write in world.server.writes() if write.resource.startswith(naming.CLASS_PLURAL)]) <= 5
    assert status(world).get("problems", []) == []
