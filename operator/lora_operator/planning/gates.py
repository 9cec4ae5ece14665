"""Checks that a run must pass before it starts. The first check that fails decides what status says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_trainer.contract.outcome import Chosen

from lora_operator.api.conflicts import conflicts
from lora_operator.api.guards import breaches
from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.namespace_selector import SENTENCE as NOT_OFFERED
from lora_operator.api.placement import SENTENCE as NO_QUEUE
from lora_operator.api.placement import all_or_none
from lora_operator.api.reasons import Reason
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION
from lora_operator.planning.observed import ClassView, Observed
from lora_operator.workloads.resolved import ResolvedRun, resolve


@dataclass(frozen=True, kw_only=True)
class Block:
    """Why a run cannot start."""

    reason: Reason
    message: str
    passes: bool = False
    """Whether the cause can pass without a person's action."""


def output_is_free(observed: Observed) -> Block | None:
    """Block while another unfinished run has the same output: latest.json would point to whichever ended last."""
    if observed.output_holder is None:
        return None
    return Block(
        reason=Reason.OUTPUT_IN_USE,
        message=(
            f"spec.output.uri {observed.run.spec.output.uri} is also the output of the unfinished "
            f"LoraFineTune {observed.output_holder}. Wait until that one is done, or create this one with another "
            "spec.output.uri."
        ),
        passes=True,
    )


def names_are_free(observed: Observed) -> Block | None:
    """Block while an object of another owner has the name of one of the run's children, which is deterministic."""
    if observed.taken_name is None:
        return None
    return Block(
        reason=Reason.NAME_TAKEN,
        message=(
            f"{observed.taken_name} already exists and belongs to another owner. If a deleted LoraFineTune left it, "
            "garbage collection removes it. Otherwise delete it, or create this LoraFineTune under another name."
        ),
    )


Gate = Callable[[Observed], Block | None]

GATES_BEFORE_START: tuple[Gate, ...] = (output_is_free, names_are_free)
GATES_ALWAYS: tuple[Gate, ...] = (names_are_free,)


def accept(observed: Observed) -> ResolvedRun | Block:
    """The resolved run, or the first check that fails.

    Once the run's ConfigMap exists, the run is resolved: changing or deleting its class no longer affects it.
    """
    started = bool(observed.jobs) or observed.resolved is not None
    resolved = observed.resolved or _resolve_now(observed)
    if isinstance(resolved, Block):
        return resolved
    gates = GATES_ALWAYS if started else GATES_BEFORE_START
    return next((block for gate in gates if (block := gate(observed)) is not None), resolved)


def _resolve_now(observed: Observed) -> ResolvedRun | Block:
    run = observed.run
    chosen = class_of(run, observed.classes)
    if isinstance(chosen, Block):
        return chosen
    if chosen.spec is None:
        message = f"LoraFineTuneClass {chosen.name} is invalid: {chosen.error}. Ask the platform team to fix it."
        return Block(reason=Reason.CLASS_INVALID, message=message)
    selector = chosen.spec.namespace_selector
    if selector is not None and not selector.matches(observed.namespace_labels):
        message = NOT_OFFERED.format(name=chosen.name, namespace=run.namespace)
        return Block(reason=Reason.POLICY_VIOLATION, message=message)
    resolved = resolve(run, class_name=chosen.name, class_spec=chosen.spec)
    wire = run.spec.wire() | resolved.run_file.wire()
    refused = breaches(wire, chosen.spec.wire(), class_name=chosen.name, namespace=run.namespace)
    if refused:
        return Block(reason=Reason.POLICY_VIOLATION, message=" ".join(refused))
    if not has_all_or_none(run, chosen.spec):
        message = NO_QUEUE.format(nodes=run.spec.parallelism.nodes, name=chosen.name)
        return Block(reason=Reason.POLICY_VIOLATION, message=message)
    if opposed := conflicts(resolved.run_file):
        message = f"With the defaults of LoraFineTuneClass {chosen.name}: {' '.join(opposed)}"
        return Block(reason=Reason.SETTINGS_CONFLICT, message=message)
    return resolved


def has_all_or_none(run: LoraFineTune, class_spec: LoraFineTuneClassSpec) -> bool:
    """Whether all pods of the run start together, or whether its class says that they need not."""
    return all_or_none(
        nodes=run.spec.parallelism.nodes,
        queue=run.spec.queue_name or class_spec.defaults.queue_name,
        placement=class_spec.train.placement,
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
