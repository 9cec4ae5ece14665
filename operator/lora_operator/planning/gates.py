"""What may keep a run from starting, as a chain of small policies. The first one that objects speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_operator.api.reasons import Reason
from lora_operator.naming import DEFAULT_CLASS_ANNOTATION
from lora_operator.planning.observed import ClassView, Observed


@dataclass(frozen=True, kw_only=True)
class Block:
    """An objection, in one word and one sentence."""

    reason: Reason
    message: str


def class_exists(observed: Observed) -> Block | None:
    """The class that the run names, or the default one, must exist and be valid."""
    chosen = resolve_class(observed.run.spec.class_name, observed.classes)
    return chosen if isinstance(chosen, Block) else None


def output_is_free(observed: Observed) -> Block | None:
    """Two unfinished runs must not publish to one place: latest.json would say which ended last, not which was
    meant."""
    if observed.output_holder is None:
        return None
    return Block(
        reason=Reason.OUTPUT_IN_USE,
        message=(
            f"spec.output.uri {observed.run.spec.output.uri} is also the output of the unfinished LoraFineTune "
            f"{observed.output_holder}. Give this one another spec.output.uri, or wait: it starts when that one is done."
        ),
    )


def names_are_free(observed: Observed) -> Block | None:
    """Children have deterministic names; an object of another owner may hold one."""
    if observed.taken_name is None:
        return None
    return Block(
        reason=Reason.NAME_TAKEN,
        message=(
            f"{observed.taken_name} exists and belongs to something else. If it is left over from a deleted "
            "LoraFineTune it goes by itself; otherwise delete it or give this LoraFineTune another name."
        ),
    )


Gate = Callable[[Observed], Block | None]

GATES: tuple[Gate, ...] = (class_exists, output_is_free, names_are_free)


def first_block(observed: Observed) -> Block | None:
    """The first objection, or None when the run may start."""
    return next((block for gate in GATES if (block := gate(observed)) is not None), None)


def resolve_class(name: str | None, classes: tuple[ClassView, ...]) -> ClassView | Block:
    """The valid class that `name` stands for; None stands for the default class."""
    offered = ", ".join(sorted(view.name for view in classes)) or "none"
    if name is not None:
        found = tuple(view for view in classes if view.name == name)
        missing = f"LoraFineTuneClass {name} (spec.className) does not exist. Classes offered: {offered}."
    else:
        found = tuple(view for view in classes if view.is_default)
        missing = (
            f"spec.className is unset and there is no default LoraFineTuneClass. Set spec.className to one of: {offered}; "
            f'or ask the platform team to annotate one with {DEFAULT_CLASS_ANNOTATION}: "true".'
        )
    if not found:
        return Block(reason=Reason.CLASS_NOT_FOUND, message=missing)
    if len(found) > 1:
        names = ", ".join(sorted(view.name for view in found))
        message = f"More than one LoraFineTuneClass is marked as default ({names}). Set spec.className."
        return Block(reason=Reason.CLASS_NOT_FOUND, message=message)
    if found[0].spec is None:
        message = f"LoraFineTuneClass {found[0].name} is invalid: {found[0].error}. Ask the platform team to mend it."
        return Block(reason=Reason.CLASS_INVALID, message=message)
    return found[0]
