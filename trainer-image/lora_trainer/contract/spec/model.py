"""The base model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lora_trainer.contract.spec.uris import MODEL_NAME
from lora_trainer.contract.wire import WireModel


class Quantization(StrEnum):
    """How the weights of the base model are held while an adapter is trained."""

    AUTO = "Auto"
    """None where the class's memory has room for it beside all that the run would take with NF4, else NF4."""
    NF4 = "NF4"
    """4-bit NormalFloat (QLoRA)."""
    NONE = "None"
    """As they are, in 16 bits."""


class ModelSettings(WireModel):
    """How a base model is loaded: what a class may give to runs that leave it unset."""

    max_seq_length: Annotated[int, Field(ge=32, le=1_048_576)] = 2048
    """Longest row in tokens. Longer rows are treated as dataset.overlength says."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Compute type. Unset: bfloat16 where the accelerator has it, else float16."""
    quantization: Quantization = Quantization.NF4
    """How the base model's weights are held in memory: NF4 (4 bits, QLoRA), None (16 bits, LoRA), or Auto: None where
    the class's memory has room for it beside all that the run would take with NF4."""

    @property
    def in_4bit(self) -> bool:
        """Whether the base model is loaded in 4 bits; also while that is open."""
        return self.quantization is not Quantization.NONE


class ModelSpec(ModelSettings):
    """The base model and how it is loaded (Unsloth's from_pretrained)."""

    name: Annotated[str, Field(min_length=1, max_length=512, pattern=MODEL_NAME)]
    """Base model: a Hugging Face id (meta-llama/Llama-3.2-3B-Instruct), a folder in a bucket (s3://bucket/models/llama,
    gs:// and az:// too) or a folder on a PersistentVolumeClaim of the namespace (pvc://claim/models/llama)."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of a Hugging Face model. The commit it resolves to is pinned for the run and shown in
    status."""
