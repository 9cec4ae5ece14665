"""What happens at the steps of a training loop: progress, checkpoints, stopping on request, giving up when diverged.

Imported after Unsloth only (see model.py).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.telemetry import ProgressServer

log = logging.getLogger(__name__)

RECENT_STEPS = 20
"""Steps that the speed shown is taken over."""


class ShowProgress(TrainerCallback):
    """Keeps the progress server up to date."""

    def __init__(self, progress: ProgressServer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._seen: list[tuple[float, int, int]] = []
        self._tokens_before = 0

    @property
    def tokens(self) -> int:
        """Non-padding tokens trained in this attempt."""
        return self._seen[-1][2] - self._tokens_before if self._seen else 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Note where this attempt starts."""
        del args, control
        self._note(state)
        self._tokens_before = self._seen[-1][2]
        self._progress.update(step=state.global_step, total_steps=state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        """Show the step that was just done."""
        del args, control
        logs = values["logs"]
        if "loss" not in logs:
            return
        self._note(state)
        log.info("Step", extra={"fields": {"step": state.global_step, **logs}})
        (began, first_step, first_tokens), (now, step, tokens) = self._seen[0], self._seen[-1]
        seconds = max(now - began, 1e-9)
        self._progress.update(
            step=step,
            total_steps=state.max_steps,
            epoch=state.epoch,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens_per_second=(tokens - first_tokens) / seconds,
            eta_seconds=round(seconds / max(step - first_step, 1) * (state.max_steps - step)),
        )

    def _note(self, state: TrainerState) -> None:
        seen = (self._clock(), state.global_step, int(state.num_input_tokens_seen))
        self._seen = [*self._seen[-RECENT_STEPS:], seen]


class StopOnRequest(TrainerCallback):
    """Saves and stops at the end of the step in which the pod was asked to stop."""

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Set the loop's own flags: only a checkpoint made by the loop at the end of a step resumes exactly."""
        del args, state
        if self._requested():
            control.should_save = True
            control.should_training_stop = True


class StopWhenDiverged(TrainerCallback):
    """Ends the run at the first loss or gradient that is not a number, before that state is shown or saved."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        """Raise TrainerError Diverged."""
        del control
        logs = values["logs"]
        # With float16 an infinite gradient is no accident: the scaler skips that step and lowers its scale.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            if name in logs and not math.isfinite(float(logs[name])):
                what = "loss" if name == "loss" else "norm of the gradient"
                raise TrainerError(
                    ExitCode.Diverged,
                    f"The {what} became {float(logs[name])} at step {state.global_step} of {state.max_steps}.",
                    "Lower training.learningRate, raise training.warmupRatio, or set model.dtype to bfloat16.",
                )


class HandOverCheckpoints(TrainerCallback):
    """Moves each finished checkpoint out of the trainer's folder and hands it over.

    Moved, not copied: the trainer would otherwise meet it again when it rotates its own checkpoints.
    """

    def __init__(self, submit: Callable[..., None], *, folder: Path) -> None:
        """`folder` must be on the same file system as the trainer's output folder."""
        self._submit = submit
        self._folder = folder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called when the checkpoint is complete on disk."""
        del control
        saved = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = saved.rename(self._folder / f"step-{state.global_step}")
        self._submit(taken, step=state.global_step)
