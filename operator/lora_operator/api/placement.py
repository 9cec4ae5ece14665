"""What starts all pods of a run on several nodes, or none. The operator and the admission policy share the rule."""

from __future__ import annotations

from enum import StrEnum


class Placement(StrEnum):
    """How the pods of a run on several nodes get their nodes."""

    QUEUE = "Queue"
    SCHEDULER = "Scheduler"
    POD_BY_POD = "PodByPod"


def all_or_none(*, nodes: int, queue: str | None, placement: Placement) -> bool:
    """Whether no two runs can each hold some nodes and wait for the others. `queue` is that of the run or its class."""
    return nodes == 1 or queue is not None or placement is not Placement.QUEUE


SENTENCE = (
    "spec.parallelism.nodes is {nodes}, and the run has no queue: two such runs may each hold some nodes and wait for "
    "the others. Set spec.queueName, or ask the platform team to set spec.defaults.queueName or spec.train.placement "
    "of LoraFineTuneClass {name}."
)
NODES = "(has(object.spec.parallelism) && has(object.spec.parallelism.nodes) ? object.spec.parallelism.nodes : 1)"
ALL_OR_NONE = (
    f"{NODES} == 1 || has(object.spec.queueName)\n"
    "|| (has(params.spec.defaults) && has(params.spec.defaults.queueName))\n"
    "|| (has(params.spec.train) && has(params.spec.train.placement)"
    f" && params.spec.train.placement != '{Placement.QUEUE}')"
)
"""`all_or_none` in CEL, of `object` and `params`."""
