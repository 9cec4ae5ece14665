"""The adapter."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lora_trainer.contract.wire import WireModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoftqConfig(WireModel):
    """LoftQ initialisation of the LoRA matrices (PEFT's LoftQConfig). Needs a 16-bit base."""

    loftq_iter: Annotated[int, Field(ge=1, le=20)] = 1
    """Alternating LoftQ iterations."""


class GradientCheckpointing(StrEnum):
    """How the backward pass gets the activations of the forward pass."""

    UNSLOTH = "Unsloth"
    """Recomputed from layer inputs that were offloaded to host memory."""
    ENABLED = "Enabled"
    """Recomputed by PyTorch."""
    DISABLED = "Disabled"
    """Kept."""


class LoraSpec(WireModel):
    """The LoRA adapter (Unsloth's get_peft_model)."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the adapter matrices. A higher rank learns more and needs more memory; 8 to 64 suits most tasks."""
    target_modules: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = PROJECTIONS
    """Linear layers that get an adapter. Default: all attention and MLP projections."""
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Scale of the adapter: its output is multiplied by loraAlpha / r. Unset: equal to r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapter. 0 is the fastest path."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which bias vectors are trained too."""
    use_gradient_checkpointing: GradientCheckpointing = GradientCheckpointing.UNSLOTH
    """Recompute activations to save memory: Unsloth (offloads to host memory, and keeps those of as many layers as fit
    the class's memory; does nothing on a CPU class), Enabled (PyTorch's own, of every layer), Disabled (fastest, most
    memory)."""
    use_rslora: bool = False
    """Rank-stabilised LoRA: scale by loraAlpha / sqrt(r)."""
    loftq_config: LoftqConfig | None = None
    """LoftQ initialisation. Needs model.quantization: None."""

    @property
    def alpha(self) -> int:
        """loraAlpha as it is used."""
        return self.lora_alpha if self.lora_alpha is not None else self.r

    def resolved(self) -> LoraSpec:
        """The same with loraAlpha written out."""
        return self.model_copy(update={"lora_alpha": self.alpha})
