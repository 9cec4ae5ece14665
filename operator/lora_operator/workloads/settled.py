"""What a run was resolved to when it began, kept in an immutable ConfigMap: later changes of the class do not touch
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_trainer.contract.run import RUN_FILE, Accelerator, Identity, RunFile, Storage
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.contract.spec.training import TrainingSpec

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec, ModelDefaults, TrainingDefaults
from lora_operator.naming import config_map_name
from lora_operator.workloads.metadata import child_metadata

RUN_KEY = RUN_FILE.name
CLASS_NAME_KEY = "className"
CLASS_KEY = "class.json"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Run file and class of one run, fixed when its first Job was made."""

    run_file: RunFile
    class_name: str
    class_spec: LoraFineTuneClassSpec


def settle(run: LoraFineTune, *, class_name: str, class_spec: LoraFineTuneClassSpec) -> Settled:
    """Resolve the run against its class."""
    storage = class_spec.storage
    accelerator = class_spec.accelerator
    run_file = RunFile(
        identity=Identity(namespace=run.namespace, name=run.name, uid=run.uid),
        model=_model(run.spec.model, class_spec.defaults.model),
        lora=run.spec.lora,
        training=_training(run.spec.training, class_spec.defaults.training).resolved(),
        dataset=run.spec.dataset,
        evaluation=run.spec.evaluation,
        output=run.spec.output,
        resources=run.spec.resources,
        storage=Storage(
            work_uri=storage.work_uri.replace("{namespace}", run.namespace),
            endpoint=storage.endpoint,
            region=storage.region,
        ),
        accelerator=Accelerator(kind=accelerator.kind, memory_gib=accelerator.memory_gib),
        model_cache=class_spec.model_cache is not None,
    )
    return Settled(run_file=run_file, class_name=class_name, class_spec=class_spec)


def _model(asked: ModelSpec, defaults: ModelDefaults) -> ModelSpec:
    token = asked.token_secret_ref or defaults.token_secret_ref
    return asked.model_copy(update={"token_secret_ref": token})


def _training(asked: TrainingSpec, defaults: TrainingDefaults) -> TrainingSpec:
    if asked.max_steps is not None or asked.num_train_epochs is not None:
        return asked
    length = {"max_steps": defaults.max_steps, "num_train_epochs": defaults.num_train_epochs}
    return asked.model_copy(update=length)


def config_map(run: LoraFineTune, settled: Settled) -> dict[str, Any]:
    """The ConfigMap of the run. It holds no secrets."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(run, name=config_map_name(run.name)),
        "immutable": True,
        "data": {
            RUN_KEY: settled.run_file.model_dump_json(by_alias=True, exclude_none=True, indent=2),
            CLASS_NAME_KEY: settled.class_name,
            CLASS_KEY: settled.class_spec.model_dump_json(by_alias=True, exclude_none=True),
        },
    }


def read_config_map(body: dict[str, Any]) -> Settled:
    """What the ConfigMap says. Raises pydantic.ValidationError or KeyError when somebody else wrote it."""
    data = body["data"]
    return Settled(
        run_file=RunFile.model_validate_json(data[RUN_KEY]),
        class_name=data[CLASS_NAME_KEY],
        class_spec=LoraFineTuneClassSpec.model_validate_json(data[CLASS_KEY]),
    )
