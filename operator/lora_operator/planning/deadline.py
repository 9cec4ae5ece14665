"""Computes how long the pods of a run may hold their nodes, and when that time is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lora_operator.planning.attempts import StageState
from lora_operator.planning.plan_builder import PlanBuilder
from lora_operator.planning.running_time import holds_node
from lora_operator.planning.totals import totals
from lora_operator.workloads.resolved import ResolvedRun


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """How long the run's pods may hold their nodes, which field limits it, and the remedy when it is exceeded."""

    seconds: int
    place: str
    remedy: str


def time_limit(builder: PlanBuilder, resolved: ResolvedRun) -> TimeLimit | None:
    """The run's own limit or its class's, whichever is shorter. Users may change the run's limit at any time."""
    own, of_class = builder.run.spec.max_runtime_seconds, resolved.class_spec.limits.max_runtime_seconds
    if of_class is not None and (own is None or of_class < own):
        place = f"limits.maxRuntimeSeconds of LoraFineTuneClass {resolved.class_name}"
        remedy = "Create another LoraFineTune with fewer steps, or with another spec.className."
        return TimeLimit(seconds=of_class, place=place, remedy=remedy)
    if own is None:
        return None
    remedy = "Create another LoraFineTune with a longer deadline or fewer steps."
    return TimeLimit(seconds=own, place="spec.maxRuntimeSeconds", remedy=remedy)


def deadline(builder: PlanBuilder, state: StageState, limit: TimeLimit) -> datetime | None:
    """When the run must be done. Only time in which a pod has a node counts, not time in queues, back-off or
    suspension."""
    spent = totals(builder.status)
    left = timedelta(seconds=limit.seconds - spent.prepare_seconds - spent.train_seconds)
    # The duration of a closed attempt is final, even if its pod is still stopping.
    job = state.job if state.live and state.attempts[-1].reason is None else None
    pod = job.newest_pod if job is not None else None
    if pod is not None and pod.scheduled is not None and holds_node(pod, now=builder.now):
        return pod.scheduled + left
    return builder.now if left <= timedelta() else None
