"""GPUs and nodes of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lora_trainer.contract.wire import WireModel


class ParallelismSpec(WireModel):
    """GPUs and nodes of a run, within the limits of its class."""

    gpus: Annotated[int, Field(ge=1, le=16)] = 1
    """GPUs of one node that share the work of every step (data parallel). The effective batch is
    perDeviceTrainBatchSize x gradientAccumulationSteps x gpus x nodes. On a CPU class: processes."""
    nodes: Annotated[int, Field(ge=1, le=16)] = 1
    """Pods that share the work of every step, each with `gpus` GPUs of its node; SFT and DPO only. They start and end
    together: when one is lost, all resume from the last checkpoint."""

    @property
    def processes(self) -> int:
        """How many processes share each step."""
        return self.nodes * self.gpus
