"""Resolves a run against its class and stores the result in an immutable ConfigMap. Later changes of the class do not
affect the run.

People may delete the ConfigMap and create another one. So status records the digest of its content before it is
created, and only a ConfigMap with that content counts as the run's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from lora_trainer.contract.run import RUN_FILE, Accelerator, Identity, RunFile, Storage
from lora_trainer.contract.spec.training import Method, TrainingSettings
from lora_trainer.contract.wire import WireModel

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.naming import config_map_name
from lora_operator.workloads.metadata import child_metadata

M = TypeVar("M", bound=WireModel)
LENGTHS = {"max_steps", "num_train_epochs"}
"""The two fields that set how long a run trains."""
UNSUPPORTED_DEFAULTS: Mapping[Method, tuple[str, ...]] = {
    Method.SFT: (),
    Method.DPO: ("packing",),
    Method.GRPO: ("packing", "eval_steps", "early_stopping"),
}
"""Class defaults that a method does not support."""
RUN_KEY = RUN_FILE.name
CLASS_NAME_KEY = "className"
CLASS_KEY = "class.json"


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """Run file and class of one run, fixed when its first Job is created."""

    run_file: RunFile
    class_name: str
    class_spec: LoraFineTuneClassSpec
    data: Mapping[str, str]
    """The same as the data of the ConfigMap: another version of the operator may write the same run differently."""

    @cached_property
    def digest(self) -> str:
        """The sha256 of the ConfigMap's data."""
        return digest_of(self.data)


def digest_of(data: Mapping[str, str]) -> str:
    """The sha256 of a ConfigMap's data, in hexadecimal."""
    return hashlib.sha256(json.dumps(dict(data), sort_keys=True).encode()).hexdigest()


def resolve(run: LoraFineTune, *, class_name: str, class_spec: LoraFineTuneClassSpec) -> ResolvedRun:
    """Resolve the run against its class."""
    storage = class_spec.storage
    accelerator = class_spec.accelerator
    run_file = RunFile(
        identity=Identity(namespace=run.namespace, name=run.name, uid=run.uid),
        hugging_face=filled(run.spec.hugging_face, class_spec.defaults.hugging_face),
        model=filled(run.spec.model, class_spec.defaults.model),
        lora=filled(run.spec.lora, class_spec.defaults.lora).resolved(),
        training=filled(run.spec.training, training_defaults(run, class_spec)).resolved(),
        dataset=run.spec.dataset,
        evaluation=filled(run.spec.evaluation, class_spec.defaults.evaluation),
        output=run.spec.output,
        parallelism=run.spec.parallelism,
        storage=Storage(
            work_uri=storage.work_uri.replace("{namespace}", run.namespace),
            endpoint=storage.endpoint,
            region=storage.region,
        ),
        accelerator=Accelerator(kind=accelerator.kind, memory_gib=accelerator.memory_gib),
        model_cache=class_spec.model_cache is not None,
    )
    data = {
        RUN_KEY: run_file.text(),
        CLASS_NAME_KEY: class_name,
        # Fields that the class leaves unset stay unset: a default of the product is not the class's setting.
        CLASS_KEY: class_spec.model_dump_json(by_alias=True, exclude_unset=True),
    }
    return ResolvedRun(run_file=run_file, class_name=class_name, class_spec=class_spec, data=data)


def training_defaults(run: LoraFineTune, class_spec: LoraFineTuneClassSpec) -> TrainingSettings:
    """The class's defaults for spec.training, without those that the method does not support, and without a length
    where the run sets one."""
    defaults, asked = class_spec.defaults.training, run.spec.training
    left_out = set(UNSUPPORTED_DEFAULTS[asked.method])
    if not asked.model_fields_set.isdisjoint(LENGTHS):
        left_out |= LENGTHS
    kept = {name: getattr(defaults, name) for name in defaults.model_fields_set - left_out}
    return TrainingSettings.model_construct(**kept)


def filled(asked: M, defaults: WireModel) -> M:
    """`asked`, with its unset fields filled from those that are set in `defaults`."""
    update = {}
    for name in defaults.model_fields_set:
        mine, theirs = getattr(asked, name), getattr(defaults, name)
        if isinstance(mine, WireModel) and isinstance(theirs, WireModel):
            update[name] = filled(mine, theirs)
        elif name not in asked.model_fields_set:
            update[name] = theirs
    return asked.model_copy(update=update)


def config_map(run: LoraFineTune, resolved: ResolvedRun) -> dict[str, Any]:
    """The ConfigMap of the run. It holds no secrets."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(run, name=config_map_name(run.name, run.uid)),
        "immutable": True,
        "data": dict(resolved.data),
    }


def read_config_map(body: dict[str, Any]) -> ResolvedRun:
    """Read the ConfigMap of a run. Fields of a newer operator that was rolled back are ignored.

    Raises pydantic.ValidationError or KeyError for content that no operator wrote."""
    data = body["data"]
    return ResolvedRun(
        run_file=RunFile.model_validate_json(data[RUN_KEY], extra="ignore"),
        class_name=data[CLASS_NAME_KEY],
        class_spec=LoraFineTuneClassSpec.model_validate_json(data[CLASS_KEY], extra="ignore"),
        data=data,
    )
