"""Checks before every attempt of an accepted run. They hold back the next attempt; one that runs is left alone."""

from __future__ import annotations

from lora_operator.api.guards import breaches
from lora_operator.api.lorafinetune import CHANGEABLE_WHILE_SUSPENDED
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.reasons import Reason
from lora_operator.planning.gates import Block
from lora_operator.planning.observed import Observed
from lora_operator.workloads.resolved import ResolvedRun


def hold(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Why the next attempt may not start, or None when it may."""
    return queue_is_allowed(observed, resolved)


def queue_is_allowed(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Block a queue or priority that was set while the run was suspended. It is allowed by the class as the run began
    with it, or as it is now."""
    run, class_name = observed.run, resolved.class_name
    changed = {name: value for name, value in run.spec.wire().items() if name in CHANGEABLE_WHILE_SUSPENDED}
    now = class_now(observed, resolved) or resolved.class_spec
    at_first, today = (
        breaches(changed, spec.wire(), class_name=class_name, namespace=run.namespace)
        for spec in (resolved.class_spec, now)
    )
    if not (at_first and today):
        return None
    remedy = "The field can change while spec.suspend is true."
    return Block(reason=Reason.POLICY_VIOLATION, message=" ".join((*today, remedy)))


def class_now(observed: Observed, resolved: ResolvedRun) -> LoraFineTuneClassSpec | None:
    """The run's class as it is now; None where it is gone or invalid."""
    return next((view.spec for view in observed.classes if view.name == resolved.class_name), None)
