"""How the Hugging Face Hub is read."""

from __future__ import annotations

from lora_trainer.contract.spec.names import KeyName, ObjectName
from lora_trainer.contract.wire import WireModel


class SecretKeyRef(WireModel):
    """One key of a Secret in the namespace of the run."""

    name: ObjectName
    """Name of the Secret."""
    key: KeyName = "token"
    """Key inside the Secret."""


class HuggingFaceSpec(WireModel):
    """How models and data sets of the Hugging Face Hub are read."""

    token_secret_ref: SecretKeyRef | None = None
    """Secret key with the token for private or gated models and data sets."""
