"""The base model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.places import ClaimRef
from lora_trainer.contract.spec.uris import MODEL_NAME, stays_in_its_folder
from lora_trainer.contract.wire import WireModel


class Quantization(StrEnum):
    """Precision of the base model's weights while an adapter is trained."""

    AUTO = "Auto"
    """None where the class's memory has room for 16-bit weights and everything else that the run needs, else NF4."""
    NF4 = "NF4"
    """4-bit NormalFloat (QLoRA)."""
    NONE = "None"
    """16 bits, not quantised."""


class ModelSettings(WireModel):
    """How a base model is loaded: what a class may give to runs that leave it unset."""

    max_seq_length: Annotated[int, Field(ge=32, le=1_048_576)] = 2048
    """Longest row in tokens. dataset.overlength says what happens to longer rows."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Compute type. Unset: bfloat16 where the accelerator supports it, else float16."""
    quantization: Quantization = Quantization.NF4
    """Precision of the base model's weights in memory: NF4 (4 bits, QLoRA), None (16 bits, LoRA), or Auto: None where
    16-bit weights fit the class's memory without reducing any other choice, else NF4."""

    @property
    def in_4bit(self) -> bool:
        """Whether the base model is loaded in 4 bits; also while that is open."""
        return self.quantization is not Quantization.NONE


class ModelSpec(ModelSettings):
    """The base model and how it is loaded (Unsloth's from_pretrained)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.name) != has(self.claimRef)", "model takes exactly one of name and claimRef."),
            stays_in_its_folder("name"),
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=512, pattern=MODEL_NAME)] | None = None
    """Base model: a Hugging Face id (meta-llama/Llama-3.2-3B-Instruct) or a folder in a bucket
    (s3://bucket/models/llama, gs:// and az:// too)."""
    claim_ref: ClaimRef | None = None
    """Base model in a folder on a PersistentVolumeClaim."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of a Hugging Face model. The run pins the commit, and status shows it."""

    @property
    def address(self) -> str:
        """Name of a model on the hub, or the URI of a folder. Empty where none is set."""
        return self.claim_ref.address if self.claim_ref else self.name or ""

    @property
    def on_hub(self) -> bool:
        """Whether the Hugging Face Hub has the model."""
        return "://" not in self.address

    @property
    def on_claim(self) -> bool:
        """Whether the model is on a volume of the namespace."""
        return self.claim_ref is not None
