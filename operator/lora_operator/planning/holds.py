"""Checks before every attempt of an accepted run. They hold back the next attempt; one that runs is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_operator.api.guards import breaches
from lora_operator.api.lorafinetune import CHANGEABLE_WHILE_SUSPENDED
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import Observed
from lora_operator.planning.status import ReadyState, RunPhase
from lora_operator.planning.suspended_job import shown_position
from lora_operator.workloads.resolved import ResolvedRun


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An accepted run whose next attempt is due."""

    observed: Observed
    resolved: ResolvedRun

    @property
    def class_now(self) -> LoraFineTuneClassSpec:
        """The run's class as it is now. Where it is gone or invalid, as the run began with it."""
        return self.observed.class_named(self.resolved.class_name) or self.resolved.class_spec


def nothing_is_paused(candidate: Candidate) -> ReadyState | None:
    """Hold back attempts while the operator or the run's class is paused, as it is now."""
    if candidate.observed.paused:
        message = "The platform team has paused the operator: no attempt starts. The run continues when they resume it."
        return ReadyState(phase=RunPhase.WORKING, reason=Reason.OPERATOR_PAUSED, message=message)
    if candidate.class_now.paused:
        message = (
            f"The platform team has paused LoraFineTuneClass {candidate.resolved.class_name} (its spec.paused): no "
            "attempt starts. The run continues when they resume it."
        )
        return ReadyState(phase=RunPhase.WORKING, reason=Reason.CLASS_PAUSED, message=message)
    return None


def has_a_place(candidate: Candidate) -> ReadyState | None:
    """Hold back attempts of a run that has no place among the active runs of its namespace and class."""
    line, places = candidate.observed.line, candidate.class_now.limits.active_runs_per_namespace
    if line is None or places is None or line.admits(places):
        return None
    message = (
        f"LoraFineTuneClass {candidate.resolved.class_name} allows {places} active runs in namespace "
        f"{candidate.observed.run.namespace} at a time (its spec.limits.activeRunsPerNamespace). This one waits "
        f"{shown_position(line.ahead + 1)}; the oldest starts first, when another run ends or is suspended."
    )
    return ReadyState(phase=RunPhase.WORKING, reason=Reason.WAITING_FOR_TURN, message=message)


def queue_is_allowed(candidate: Candidate) -> ReadyState | None:
    """Hold back a run whose queue or priority was changed to one that its class does not allow, neither as the run
    began with it nor as it is now."""
    run, class_name = candidate.observed.run, candidate.resolved.class_name
    changed = {name: value for name, value in run.spec.wire().items() if name in CHANGEABLE_WHILE_SUSPENDED}
    at_first, now = (
        breaches(changed, spec.wire(), class_name=class_name, namespace=run.namespace)
        for spec in (candidate.resolved.class_spec, candidate.class_now)
    )
    if not (at_first and now):
        return None
    message = " ".join((*now, "The field can change while spec.suspend is true."))
    return ReadyState(phase=RunPhase.NEEDS_PERSON, reason=Reason.POLICY_VIOLATION, message=message)


HOLDS: tuple[Callable[[Candidate], ReadyState | None], ...] = (
    queue_is_allowed,
    nothing_is_paused,
    has_a_place,
)


def held_back(candidate: Candidate) -> ReadyState | None:
    """Why the next attempt may not start, by the first check that fails."""
    return next((state for check in HOLDS if (state := check(candidate)) is not None), None)
