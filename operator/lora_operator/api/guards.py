"""What a class allows to its runs, as one table. The admission policy (`admission.py`) and the operator's own check are
both made of it, so that they refuse the same things in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.contract.spec.places import CLAIM, CONFIG_MAP, DataPlace

from lora_operator.api.lorafinetune import IMMUTABLE
from lora_operator.api.lorafinetuneclass import LimitsSpec

NAMESPACE_PLACEHOLDER = "{namespace}"
"""Stands for the namespace of the run in the class's addresses."""

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a value of a run is compared with the bound of its class."""

    holds: Callable[[Any, Any], bool]
    """Of a value and the class's bound."""
    cel: str
    """The same in CEL, of `value` and BOUND."""
    sentence: str
    """The message where it does not hold; `_validation` and `_breach` fill the names in braces."""


def _listed(value: str, entries: list[str]) -> bool:
    return any(value.startswith(entry[:-1]) if entry.endswith("*") else value == entry for entry in entries)


AT_MOST = Comparison(
    holds=lambda value, bound: value <= bound,
    cel="value <= BOUND",
    sentence=(
        "spec.{field} is {value}, but LoraFineTuneClass {name} allows at most {bound} (its spec.{place}). Lower it, or "
        "choose another spec.className."
    ),
)
LISTED = Comparison(
    holds=_listed,
    cel=(
        "BOUND.exists(entry, entry.endsWith('*') ? value.startsWith(entry.substring(0, size(entry) - 1)) "
        ": value == entry)"
    ),
    sentence=(
        "spec.{field} {value} is not allowed by LoraFineTuneClass {name}. Its spec.{place} allows: {bound}. Use one of "
        "these, or choose another spec.className."
    ),
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What of a field is compared."""

    of: Callable[[Any], Any]
    """The value that is compared, of the field in its wire form; empty text where there is none."""
    cel: str
    """The same in CEL, of `at`."""
    given: str = "true"
    """In CEL, of `at`: whether there is such a value."""


ITSELF = Reading(of=lambda value: value, cel="at")
CLAIM_ADDRESS = f"'{CLAIM}' + at.claimRef.name + '/' + at.claimRef.path"
ROWS = Reading(
    of=lambda place: DataPlace.model_validate(place, extra="ignore").address,
    cel=f"has(at.uri) ? at.uri : has(at.claimRef) ? {CLAIM_ADDRESS} : "
    f"'{CONFIG_MAP}' + at.configMapRef.name + '/' + at.configMapRef.key",
    given="has(at.uri) || has(at.claimRef) || has(at.configMapRef)",
)
MODEL = Reading(
    of=lambda model: ModelSpec.model_validate(model, extra="ignore").address,
    cel=f"has(at.name) ? at.name : {CLAIM_ADDRESS}",
    given="has(at.name) || has(at.claimRef)",
)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One field of a run and what bounds it."""

    field: str
    """Path below spec of a LoraFineTune; [] stands for each item of a list."""
    place: str
    """Path of the bound below spec of a LoraFineTuneClass."""
    comparison: Comparison
    reading: Reading = ITSELF
    unset: int | None = None
    """The bound where the class leaves it unset. None: everything is allowed then."""

    @property
    def mutable(self) -> bool:
        """Whether the field may change after creation."""
        return self.field.split(".")[0] not in IMMUTABLE


GUARDS: tuple[Guard, ...] = (
    Guard(field="model", place="allowed.models", comparison=LISTED, reading=MODEL),
    Guard(field="dataset", place="allowed.datasets", comparison=LISTED, reading=ROWS),
    Guard(field="dataset.sources[]", place="allowed.datasets", comparison=LISTED, reading=ROWS),
    Guard(field="evaluation.dataset", place="allowed.datasets", comparison=LISTED, reading=ROWS),
    Guard(field="evaluation.datasets[]", place="allowed.datasets", comparison=LISTED, reading=ROWS),
    Guard(field="output.uri", place="allowed.outputs", comparison=LISTED),
    Guard(field="queueName", place="allowed.queues", comparison=LISTED),
    Guard(field="workloadPriorityClassName", place="allowed.priorityClasses", comparison=LISTED),
    Guard(field="lora.r", place="limits.r", comparison=AT_MOST),
    Guard(field="model.maxSeqLength", place="limits.maxSeqLength", comparison=AT_MOST),
    Guard(field="training.maxSteps", place="limits.maxSteps", comparison=AT_MOST),
    Guard(field="maxRuntimeSeconds", place="limits.maxRuntimeSeconds", comparison=AT_MOST),
    Guard(field="parallelism.gpus", place="limits.gpus", comparison=AT_MOST, unset=LimitsSpec().gpus),
    Guard(field="parallelism.nodes", place="limits.nodes", comparison=AT_MOST, unset=LimitsSpec().nodes),
)


def breaches(run_spec: Values, class_spec: Values, *, class_name: str, namespace: str) -> tuple[str, ...]:
    """A sentence for each guard that the run breaks. Both specs are in their wire form."""
    found = (_breach(guard, run_spec, class_spec, class_name, namespace) for guard in GUARDS)
    return tuple(sentence for sentence in found if sentence is not None)


def _breach(guard: Guard, run_spec: Values, class_spec: Values, class_name: str, namespace: str) -> str | None:
    bound = next(_values(class_spec, guard.place.split(".")), None)
    if bound is None:
        return None
    if isinstance(bound, list):
        bound = [entry.replace(NAMESPACE_PLACEHOLDER, namespace) for entry in bound]
    read = (guard.reading.of(field) for field in _values(run_spec, guard.field.split(".")))
    for value in filter(lambda value: value != "", read):
        if not guard.comparison.holds(value, bound):
            shown = ", ".join(bound) if isinstance(bound, list) else bound
            return guard.comparison.sentence.format(
                field=guard.field, value=value, name=class_name, bound=shown, place=guard.place
            )
    return None


def _values(node: Any, path: list[str]) -> Iterator[Any]:
    """What stands at a path: nothing where it is unset, and one value for each item of a list on the way."""
    if not path:
        yield node
        return
    name, rest = path[0].removesuffix("[]"), path[1:]
    if name not in node:
        return
    items = node[name] if path[0].endswith("[]") else (node[name],)
    for item in items:
        yield from _values(item, rest)
