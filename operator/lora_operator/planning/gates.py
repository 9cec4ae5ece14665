"""Checks that a run must pass before it starts: one chain, in order. The first check that fails decides what status
says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto

from lora_trainer.contract.outcome import Chosen

from lora_operator.api.conflicts import conflicts
from lora_operator.api.guards import breaches
from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.namespace_selector import SENTENCE as NOT_OFFERED
from lora_operator.api.placement import SENTENCE as NO_QUEUE
from lora_operator.api.placement import all_or_none
from lora_operator.api.reasons import Reason
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION, config_map_name
from lora_operator.planning.observed import ClassView, Observed, TakenName
from lora_operator.workloads.resolved import ResolvedRun, resolve


@dataclass(frozen=True, kw_only=True)
class Block:
    """Why a run cannot start."""

    reason: Reason
    message: str
    passes: bool = False
    """Whether the cause can pass without a person's action."""


class Standing(IntEnum):
    """How far a run has come. It follows from status, which tenants cannot write, and from a ConfigMap that agrees with
    status."""

    NEW = auto()
    """Nothing is fixed yet."""
    RESOLVED = auto()
    """Its ConfigMap has the recorded content. Changing or deleting its class no longer affects the run."""
    BEGUN = auto()
    """It has had a Job."""


def standing(observed: Observed) -> Standing:
    """How far the run has come."""
    if observed.begun:
        return Standing.BEGUN
    return Standing.NEW if observed.resolved is None else Standing.RESOLVED


def accept(observed: Observed) -> ResolvedRun | Block:
    """The resolved run, or the first check that fails."""
    resolved = observed.resolved or _resolve_now(observed)
    if isinstance(resolved, Block):
        return resolved
    reached = standing(observed)
    checks = (gate.check for gate in CHAIN if reached < gate.exempt_from)
    return next((block for check in checks if (block := check(observed, resolved)) is not None), resolved)


def _resolve_now(observed: Observed) -> ResolvedRun | Block:
    chosen = class_of(observed.run, observed.classes)
    if isinstance(chosen, Block):
        return chosen
    if chosen.spec is None:
        message = f"LoraFineTuneClass {chosen.name} is invalid: {chosen.error}. Ask the platform team to fix it."
        return Block(reason=Reason.CLASS_INVALID, message=message)
    return resolve(observed.run, class_name=chosen.name, class_spec=chosen.spec)


def class_is_offered(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Block where the class is not for the run's namespace."""
    selector = resolved.class_spec.namespace_selector
    if selector is None or selector.matches(observed.namespace_labels):
        return None
    message = NOT_OFFERED.format(name=resolved.class_name, namespace=observed.run.namespace)
    return Block(reason=Reason.POLICY_VIOLATION, message=message)


def class_allows(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Block where the run, with all defaults filled in, asks for more than its class allows."""
    run = observed.run
    wire = run.spec.wire() | resolved.run_file.wire()
    broken = breaches(wire, resolved.class_spec.wire(), class_name=resolved.class_name, namespace=run.namespace)
    return Block(reason=Reason.POLICY_VIOLATION, message=" ".join(broken)) if broken else None


def has_all_or_none(run: LoraFineTune, class_spec: LoraFineTuneClassSpec) -> bool:
    """Whether all pods of the run start together, or whether its class says that they need not."""
    return all_or_none(
        nodes=run.spec.parallelism.nodes,
        queue=run.spec.queue_name or class_spec.defaults.queue_name,
        placement=class_spec.train.placement,
    )


def starts_as_one(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Block where pods of a run on several nodes could hold their accelerators while the others find none."""
    run = observed.run
    if has_all_or_none(run, resolved.class_spec):
        return None
    message = NO_QUEUE.format(nodes=run.spec.parallelism.nodes, name=resolved.class_name)
    return Block(reason=Reason.POLICY_VIOLATION, message=message)


def settings_agree(_: Observed, resolved: ResolvedRun) -> Block | None:
    """Block where defaults contradict the run's own settings."""
    opposed = conflicts(resolved.run_file)
    message = f"With the defaults of LoraFineTuneClass {resolved.class_name}: {' '.join(opposed)}"
    return Block(reason=Reason.SETTINGS_CONFLICT, message=message) if opposed else None


def output_is_free(observed: Observed, _: ResolvedRun) -> Block | None:
    """Block while another run holds the same output: latest.json would point to whichever ended last."""
    if observed.output_holder is None:
        return None
    namespace, name = observed.output_holder
    # A team does not learn what runs in the namespaces of others.
    holder = f"LoraFineTune {name}" if namespace == observed.run.namespace else "a LoraFineTune of another namespace"
    return Block(
        reason=Reason.OUTPUT_IN_USE,
        message=(
            f"spec.output.uri {observed.run.spec.output.uri} is also the output of {holder}, which is not finished. "
            "Wait until it is, or create this one with another spec.output.uri."
        ),
        passes=True,
    )


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One check of the chain."""

    check: Callable[[Observed, ResolvedRun], Block | None]
    exempt_from: Standing
    """A run that has come so far need not pass it any more."""


CHAIN: tuple[Gate, ...] = (
    Gate(check=class_is_offered, exempt_from=Standing.RESOLVED),
    Gate(check=class_allows, exempt_from=Standing.RESOLVED),
    Gate(check=starts_as_one, exempt_from=Standing.RESOLVED),
    Gate(check=settings_agree, exempt_from=Standing.RESOLVED),
    Gate(check=output_is_free, exempt_from=Standing.BEGUN),
)
"""What a run must pass to start, in order."""


def may_create(observed: Observed, resolved: ResolvedRun) -> Block | None:
    """Why no child may be created for the run, in whatever state it is; None where nothing is in the way."""
    if observed.taken is not None:
        return Block(reason=Reason.NAME_TAKEN, message=_taken(observed.taken))
    recorded = observed.run.status.resolved_digest
    if not observed.begun or recorded in (None, resolved.digest):
        return None
    name = config_map_name(observed.run.name, observed.run.uid)
    message = (
        f"ConfigMap {name} is gone or was replaced, and LoraFineTuneClass {resolved.class_name} has changed since the "
        "run started, so the operator cannot create it again as it was. Restore the ConfigMap or the class, or create "
        "another LoraFineTune."
    )
    return Block(reason=Reason.CONFIG_MAP_LOST, message=message)


def _taken(taken: TakenName) -> str:
    if taken.forged:
        return (
            f"{taken.child} names this LoraFineTune as its owner, but it is not what the operator creates. Delete it; "
            "the operator then creates its own."
        )
    return (
        f"{taken.child} already exists and belongs to another owner. If a deleted LoraFineTune left it, garbage "
        "collection removes it. Otherwise delete it, or create this LoraFineTune under another name."
    )


def too_many_steps(chosen: Chosen | None, resolved: ResolvedRun) -> str | None:
    """Why the run exceeds its class's limit of steps, or None. With epochs, the number is known after prepare."""
    most = resolved.class_spec.limits.max_steps
    if most is None or chosen is None or chosen.max_steps <= most:
        return None
    return (
        f"The run would train for {chosen.max_steps} steps, but LoraFineTuneClass {resolved.class_name} allows at most "
        f"{most} (its spec.limits.maxSteps). Create another LoraFineTune with spec.training.maxSteps, fewer rows or a "
        "larger batch, or with another spec.className."
    )


def class_of(run: LoraFineTune, classes: tuple[ClassView, ...]) -> ClassView | Block:
    """The class that the run gets, or has had from the start."""
    return resolve_class(run.status.class_name or run.spec.class_name, classes)


def resolve_class(name: str | None, classes: tuple[ClassView, ...]) -> ClassView | Block:
    """The class with this name, or the default class for None."""
    offered = ", ".join(sorted(view.name for view in classes)) or "none"
    if name is not None:
        found = tuple(view for view in classes if view.name == name)
        missing = f"LoraFineTuneClass {name} (spec.className) does not exist. Existing classes: {offered}."
    else:
        found = tuple(view for view in classes if view.is_default)
        missing = (
            "spec.className is unset and there is no default LoraFineTuneClass. Set spec.className to one of: "
            f'{offered}; or ask the platform team to annotate one with {DEFAULT_CLASS_ANNOTATION}: "true".'
        )
    if len(found) > 1:
        names = ", ".join(sorted(view.name for view in found))
        message = f"More than one LoraFineTuneClass is marked as default ({names}). Set spec.className."
        return Block(reason=Reason.CLASS_NOT_FOUND, message=message)
    view = next(iter(found), None)
    if view is None and not classes:
        missing = "There is no LoraFineTuneClass yet. Ask the platform team to create one; the run then starts."
    if view is None:
        return Block(reason=Reason.CLASS_NOT_FOUND, message=missing)
    return view
