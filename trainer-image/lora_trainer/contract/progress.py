"""Answers of a running pod over HTTP: its progress, and its health."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from lora_trainer.contract.wire import WireModel

PORT = 8080
PATH = "/progress"
HEALTH_PATH = "/healthz"
"""Path of the kubelet's liveness probe."""
MAX_HISTORY = 64


Steps = Annotated[int, Field(ge=0, le=10**12)]


class Phase(StrEnum):
    """What the pod is busy with."""

    STARTING = "Starting"
    DATA = "ReadingData"
    LOADING = "LoadingModel"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    VERIFYING = "Verifying"
    EXPORTING = "Exporting"


class LossPoint(WireModel):
    """One point of the loss curve."""

    step: int
    """Optimizer step."""
    loss: float
    """Training loss at that step."""


class Progress(WireModel):
    """Where the work stands."""

    phase: Phase
    """What the pod is busy with."""
    step: Steps = 0
    """Optimizer steps done."""
    total_steps: Steps = 0
    """Optimizer steps in all."""
    epoch: float | None = None
    """Passes over the dataset done."""
    loss: float | None = None
    """Training loss of the last step."""
    learning_rate: float | None = None
    """Learning rate of the last step."""
    eval_loss: float | None = None
    """Held-out loss of the last evaluation during training."""
    best_step: int | None = None
    """Step with the lowest held-out loss so far."""
    tokens_per_second: float | None = None
    """Non-padding tokens trained per second."""
    step_seconds: float | None = None
    """Median seconds of a step in this attempt. Set only while the next step is due: not during the first steps, during
    an evaluation, or after the last step."""
    mfu: float | None = None
    """Model FLOPs utilisation: share of the accelerator's peak speed used for the model's arithmetic; unset where the
    peak is not known."""
    peak_memory_gib: Annotated[float | None, Field(alias="peakMemoryGiB")] = None
    """Peak accelerator memory of this attempt so far; resident memory on a CPU class."""
    eta_seconds: int | None = None
    """Seconds until the last step."""
    checkpoint: Annotated[str, Field(max_length=2048)] | None = None
    """URI of the last committed checkpoint."""
    checkpoint_step: int | None = None
    """Step of the last committed checkpoint."""
    resumed_from_step: int | None = None
    """Step this attempt resumed from."""
    history: Annotated[tuple[LossPoint, ...], Field(max_length=MAX_HISTORY)] = ()
    """The loss curve, thinned to at most 64 points."""
