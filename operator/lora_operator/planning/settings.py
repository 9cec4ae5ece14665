"""Finds where each setting of a run comes from: its user, its class, the trainer, or the product's default. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.spec.evaluation import EvaluationSettings
from lora_trainer.contract.spec.lora import LoraSpec
from lora_trainer.contract.spec.model import ModelSettings
from lora_trainer.contract.spec.training import TrainingSettings
from lora_trainer.contract.wire import WireModel

from lora_operator.api.lorafinetune import LoraFineTune, Settings
from lora_operator.workloads.resolved import ResolvedRun, training_defaults

BLOCKS: Mapping[str, type[WireModel]] = {
    "model": ModelSettings,
    "lora": LoraSpec,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}
"""The blocks of spec that hold settings, and the models whose fields are settings."""
Leaves = dict[str, str]


def settings(run: LoraFineTune, resolved: ResolvedRun, chosen: Chosen | None) -> Settings:
    """Every setting by its path below spec, with its value as JSON (strings without quotes)."""
    defaults = resolved.class_spec.defaults.model_copy(update={"training": training_defaults(run, resolved.class_spec)})
    asked, given = _leaves(run.spec), _leaves(defaults)
    leaves = _leaves(resolved.run_file, unset=True)
    by_class = {name: text for name, text in given.items() if name not in asked}
    by_default = {name: text for name, text in leaves.items() if name not in asked and name not in by_class}
    by_trainer = _chosen(chosen, known=asked | by_class | by_default)
    return Settings(user=asked, class_=by_class, chosen=by_trainer, default=by_default)


def _chosen(chosen: Chosen | None, *, known: Leaves) -> Leaves:
    """The settings that were left to the trainer, with its choices."""
    wire = chosen.wire() if chosen is not None else {}
    open_ = {
        f"{block}.{name}": _text(wire[name])
        for block, fields in BLOCKS.items()
        for name in _names(fields)
        if name in wire
    }
    return {name: text for name, text in open_.items() if known.get(name, OPEN) == OPEN}


def _leaves(spec: WireModel, *, unset: bool = False) -> Leaves:
    """The settings of a spec by path: those that it sets and, with `unset`, also the model's defaults."""
    found: Leaves = {}
    for block, fields in BLOCKS.items():
        part: WireModel = getattr(spec, block)
        values = part.model_dump(mode="json", by_alias=True, exclude_unset=not unset, exclude_none=True)
        settable = {name: values[name] for name in _names(fields) if name in values}
        found |= {f"{block}.{path}": text for path, text in _flat(settable)}
    return found


def _names(fields: type[WireModel]) -> Iterator[str]:
    return (str(field.alias) for field in fields.model_fields.values())


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{path}", text) for path, text in _flat(value))
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


OPEN = "Auto"
"""A value that leaves the choice to the trainer."""
