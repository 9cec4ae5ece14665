"""The base model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.config import JsonDict

from lora_trainer.contract.spec.names import KeyName, ObjectName
from lora_trainer.contract.spec.uris import MODEL_NAME
from lora_trainer.contract.wire import WireModel

OF_TWO_TYPES: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
"""What stands in a schema for a type where the values are of two: the API server compares with them all the same, only
its rules (CEL) do not see the field."""


class SecretKeyRef(WireModel):
    """One key of a Secret in the namespace of the fine-tune."""

    name: ObjectName
    """Name of the Secret."""
    key: KeyName = "token"
    """Key inside the Secret."""


class ModelSettings(WireModel):
    """How a base model is loaded: what a class may give to runs that leave it unset."""

    max_seq_length: Annotated[int, Field(ge=32, le=1_048_576)] = 2048
    """Longest row in tokens. Longer rows are treated as dataset.overlength says."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Compute type. Unset: bfloat16 where the accelerator has it, else float16."""
    load_in_4bit: Annotated[Literal[True, False, "auto"], Field(alias="loadIn4bit", json_schema_extra=OF_TWO_TYPES)] = (
        True
    )
    """Load the base model in 4-bit NF4 (QLoRA). False: 16-bit LoRA. auto: 16-bit where the class's memory has room for
    it beside all that the run would take in 4-bit."""


class ModelSpec(ModelSettings):
    """The base model and how it is loaded (Unsloth's from_pretrained)."""

    name: Annotated[str, Field(min_length=1, max_length=512, pattern=MODEL_NAME)]
    """Base model: a Hugging Face id (meta-llama/Llama-3.2-3B-Instruct), a folder in a bucket (s3://bucket/models/llama,
    gs:// and az:// too) or a folder on a PersistentVolumeClaim of the namespace (pvc://claim/models/llama)."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of a Hugging Face model. The commit it resolves to is pinned for the run and shown in
    status."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret key with the Hugging Face token for a private or gated model."""
