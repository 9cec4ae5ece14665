"""What one run computes on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lora_trainer.contract.wire import WireModel


class ResourcesSpec(WireModel):
    """What one run computes on, within what its class allows."""

    gpus: Annotated[int, Field(ge=1, le=16)] = 1
    """GPUs of one node that share the work of every step (data parallel). The effective batch is
    perDeviceTrainBatchSize x gradientAccumulationSteps x gpus. On a CPU class: processes."""
