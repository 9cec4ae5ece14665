"""The run file: one fine-tune with every default resolved, as the trainer reads it from /etc/lora/run.json. No
secrets."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lora_trainer.contract.spec.dataset import DatasetSpec
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.contract.spec.hugging_face import HuggingFaceSpec
from lora_trainer.contract.spec.lora import GradientCheckpointing, LoraSpec
from lora_trainer.contract.spec.model import ModelSpec, Quantization
from lora_trainer.contract.spec.output import OutputSpec
from lora_trainer.contract.spec.parallelism import ParallelismSpec
from lora_trainer.contract.spec.training import TrainingSpec
from lora_trainer.contract.wire import WireModel

RUN_FILE = Path("/etc/lora/run.json")
RUN_FILE_SHA256_VARIABLE = "LORA_RUN_FILE_SHA256"
"""The sha256 of the run file as the operator wrote it. People may write ConfigMaps who may not change a pod."""
PVC_MOUNT_ROOT = Path("/mnt/pvc")
"""A claim that a run names is mounted read-only at PVC_MOUNT_ROOT/claim."""
CONFIG_MAP_MOUNT_ROOT = Path("/mnt/configmap")
"""The key of a ConfigMap that a run names is mounted at CONFIG_MAP_MOUNT_ROOT/name/key."""
MODEL_CACHE = Path("/mnt/models")
"""The claim of the class's model cache is mounted here: writable in prepare, read-only in train."""
RENDEZVOUS_PORT = 8081
"""Port of the first pod of a run on several nodes, to which the others connect."""
EIGHT_BIT_OPTIMIZERS = ("adamw_8bit", "paged_adamw_8bit")
FASTEST_OPTIMIZER = "adamw_torch_fused"
"""One launch for the whole adapter: the 8-bit ones take one for each of its matrices, 7 ms a step on an H200."""
SCRATCH = Path("/scratch")
"""The pod's only writable folder (an emptyDir): HOME, TMPDIR and the working directory."""


class AcceleratorKind(StrEnum):
    """What the train pod computes on."""

    GPU = "GPU"
    CPU = "CPU"


class Identity(WireModel):
    """Which LoraFineTune this run belongs to."""

    namespace: str
    name: str
    uid: str


class Storage(WireModel):
    """Location of the bucket. Credentials come from the environment (AWS_ACCESS_KEY_ID, ...), never from here."""

    work_uri: str
    """Folder for prepared rows and checkpoints, with every placeholder resolved."""
    endpoint: str | None = None
    region: str | None = None


class Accelerator(WireModel):
    """Accelerator that the class offers to one train pod."""

    kind: AcceleratorKind
    memory_gib: Annotated[float | None, Field(alias="memoryGiB")] = None


class RunFile(WireModel):
    """Everything that the trainer needs to know about a run.

    The defaults are part of the contract and never change, because a run file leaves out what has its default.
    """

    version: Literal[1] = 1
    identity: Identity
    hugging_face: HuggingFaceSpec = HuggingFaceSpec()
    model: ModelSpec
    lora: LoraSpec
    training: TrainingSpec
    dataset: DatasetSpec
    evaluation: EvaluationSpec
    output: OutputSpec
    parallelism: ParallelismSpec = ParallelismSpec()
    storage: Storage
    accelerator: Accelerator
    model_cache: bool = False
    """Whether base models are kept at MODEL_CACHE."""

    def text(self) -> str:
        """The run file. Fields that have their default are left out: a trainer that is older than the operator refuses
        fields that it does not know, and needs to know only those that are used."""
        used = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        return json.dumps({"version": self.version} | used, indent=2, ensure_ascii=False)

    def quantized(self, quantization: Quantization) -> RunFile:
        """The run with model.quantization as it was decided."""
        return self.model_copy(update={"model": self.model.model_copy(update={"quantization": quantization})})

    @property
    def gradient_checkpointing(self) -> GradientCheckpointing:
        """lora.useGradientCheckpointing as it takes effect. On a CPU class, offloading would free no memory."""
        asked = self.lora.use_gradient_checkpointing
        return (
            GradientCheckpointing.DISABLED
            if asked is GradientCheckpointing.UNSLOTH and self.accelerator.kind is AcceleratorKind.CPU
            else asked
        )

    @property
    def optim(self) -> str:
        """training.optim as it takes effect; where it is unset, the one that needs the least memory. CPU classes do not
        support 8-bit moments."""
        asked, kind = self.training.optim or EIGHT_BIT_OPTIMIZERS[0], self.accelerator.kind
        return FASTEST_OPTIMIZER if asked in EIGHT_BIT_OPTIMIZERS and kind is AcceleratorKind.CPU else asked


def canonical_json(value: object) -> bytes:
    """The one byte form of a JSON value that digests are taken of: sorted keys, no white space, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


RECIPE = 1
"""Number of how a spec is trained. Raise it whenever the same spec and rows train another adapter than before, so that
no adapter of an earlier release is reused."""


def run_digest(run: RunFile, *, data_digest: str, model_revision: str, code_digest: str | None = None) -> str:
    """Name of the artifact: sha256 of the run's shape."""
    shape = run_shape(run, data_digest=data_digest, model_revision=model_revision, code_digest=code_digest)
    return hashlib.sha256(shape).hexdigest()


def run_shape(run: RunFile, *, data_digest: str, model_revision: str, code_digest: str | None = None) -> bytes:
    """Everything that shapes the adapter, as canonical JSON.

    Two runs with the same shape train the same adapter. Identity, storage, checkpoint intervals, gates and the token's
    Secret are left out. Digests of the contents replace the locations of data and model.
    """
    shape = {
        "recipe": RECIPE,
        "model": run.model.wire() | {"revision": model_revision},
        "lora": run.lora.resolved().wire(),
        "training": run.training.resolved().wire(),
        "dataset": run.dataset.wire() | {"digest": data_digest},
        "evaluation": run.evaluation.wire(),
        "accelerator": run.accelerator.kind,
        # The same number of processes trains the same adapter, no matter how they are spread over nodes.
        "parallelism": {"gpus": run.parallelism.processes},
    }
    for field in ("uri", "configMapRef", "claimRef", "sources", "maxBadFraction", "samplesInStatus"):
        shape["dataset"].pop(field, None)
    for field in ("dataset", "datasets", "gates"):
        shape["evaluation"].pop(field, None)
    if run.evaluation.datasets:
        shape["evaluation"]["datasets"] = [each.name for each in run.evaluation.datasets]
    for field in ("saveSteps", "saveMinutes", "saveTotalLimit"):
        shape["training"].pop(field, None)
    if code_digest is not None:
        shape["code"] = code_digest
    return canonical_json(shape)
