"""Access to the Hugging Face Hub."""

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
    """Access to models and datasets of the Hugging Face Hub."""

    token_secret_ref: SecretKeyRef | None = None
    """Secret key with the token for private or gated models and datasets."""
