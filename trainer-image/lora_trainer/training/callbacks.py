"""Callbacks at the steps of a training loop: progress, checkpoints, stopping, ending a diverged run.

Imported after Unsloth only (see libraries.py).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import EarlyStoppingSpec
from lora_trainer.errors import TrainerError
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.channel import Channel
from lora_trainer.training.checkpoints import Checkpoint, random_state
from lora_trainer.training.divergence import WINDOW, diverged, highest_sane_loss, in_doubt_since
from lora_trainer.training.pace import median_step_seconds
from lora_trainer.training.selection import best, evaluation_due, exhausted
from lora_trainer.training.stopping import StopRequest

log = logging.getLogger(__name__)

RECENT_STEPS = 20
"""Steps that the speed shown is taken over."""


class ShowProgress(TrainerCallback):
    """Keeps the progress server up to date."""

    def __init__(
        self,
        progress: ProgressServer,
        *,
        peak_memory_gib: Callable[[], float],
        peak_tokens_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`peak_tokens_per_second` is the speed of an accelerator that does nothing but the model's arithmetic."""
        self._progress = progress
        self._peak_memory_gib = peak_memory_gib
        self._peak_tokens_per_second = peak_tokens_per_second
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
        del args
        logs = values["logs"]
        if "loss" not in logs:
            return
        self._note(state)
        log.info("Step", extra={"fields": {"step": state.global_step, **logs}})
        (began, first_step, first_tokens), (now, step, tokens) = self._seen[0], self._seen[-1]
        seconds = max(now - began, 1e-9)
        speed, peak_speed = (tokens - first_tokens) / seconds, self._peak_tokens_per_second
        self._progress.update(
            step=step,
            total_steps=state.max_steps,
            epoch=state.epoch,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens_per_second=speed,
            step_seconds=None if control.should_training_stop else self._median_step_seconds(),
            mfu=round(speed / peak_speed, 4) if peak_speed else None,
            peak_memory_gib=round(self._peak_memory_gib(), 2),
            eta_seconds=round(seconds / max(step - first_step, 1) * (state.max_steps - step)),
        )

    def _median_step_seconds(self) -> float | None:
        return median_step_seconds([(at, step) for at, step, _ in self._seen])

    def _note(self, state: TrainerState) -> None:
        seen = (self._clock(), state.global_step, int(state.num_input_tokens_seen))
        self._seen = [*self._seen[-RECENT_STEPS:], seen]


class EvaluateHeldOut(TrainerCallback):
    """Writes the held-out loss of some steps to the trainer's log, saves the best and stops when it no longer improves.

    Comes before SaveAndStop. The next attempt repeats an evaluation that a request to stop has interrupted.
    """

    def __init__(
        self,
        loss: Callable[[PeftModel], float | None],
        *,
        every: int | None,
        early_stopping: EarlyStoppingSpec | None,
        progress: ProgressServer,
    ) -> None:
        self._loss = loss
        self._every = every
        self._early_stopping = early_stopping
        self._progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        """Called before the step is logged and saved."""
        del args
        step, history = state.global_step, state.log_history
        if not evaluation_due(history, step=step, every=self._every, last=control.should_training_stop):
            return
        self._progress.update(step_seconds=None)  # no step is due until this one is logged
        loss = self._loss(values["model"])
        if loss is None:
            return
        history.append({"step": step, "epoch": state.epoch, "eval_loss": loss})
        lowest = best(history)
        self._progress.update(eval_loss=loss, best_step=lowest.step if lowest else None)
        control.should_save |= lowest is not None and lowest.step == step
        control.should_training_stop |= exhausted(history, self._early_stopping)


class SaveAndStop(TrainerCallback):
    """Decides at the end of each step whether to save and whether to stop.

    It sets the loop's own flags, because only a checkpoint that the loop makes at the end of a step resumes exactly. A
    checkpoint that is due while the previous one is still being uploaded waits for a later step: training never waits
    for a slow bucket, except when it ends.
    """

    def __init__(
        self,
        *,
        stop: StopRequest,
        steps: int,
        seconds: float,
        busy: Callable[[], bool],
        channel: Channel,
        vocabulary: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A checkpoint is due after so many `steps` or `seconds`, but never of a model that may have diverged."""
        self._stop = stop
        self._steps = steps
        self._seconds = seconds
        self._busy = busy
        self._channel = channel
        self._vocabulary = vocabulary
        self._clock = clock
        self._saved_step = 0
        self._saved_at = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Where this attempt starts, there is nothing to save."""
        del args, control
        self._note(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called before the step is logged and saved."""
        del args
        self._stop.defer()  # from the first step on there is something to lose
        control.should_training_stop |= self._stop.requested
        due = self._due(state.global_step) and not self._unwanted(state)
        control.should_save |= control.should_training_stop or due
        self._channel.tell(save=control.should_save, stop=control.should_training_stop)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Count from here again."""
        del args, control
        self._note(state)

    def _due(self, step: int) -> bool:
        return step // self._steps > self._saved_step // self._steps or self._clock() - self._saved_at >= self._seconds

    def _unwanted(self, state: TrainerState) -> bool:
        return self._busy() or in_doubt_since(state.log_history, vocabulary=self._vocabulary) is not None

    def _note(self, state: TrainerState) -> None:
        self._saved_step, self._saved_at = state.global_step, self._clock()


class FollowFirst(TrainerCallback):
    """In the processes beside the first: saves and stops when that one does."""

    def __init__(self, channel: Channel, *, progress: ProgressServer, stop: StopRequest | None) -> None:
        """`stop` is the stop request of a further node. The node reports it to the first process, which decides."""
        self._channel = channel
        self._progress = progress
        self._stop = stop

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called before the step is saved."""
        del args
        if self._stop:
            self._stop.defer()
        self._progress.update(step=state.global_step)
        control.should_save, control.should_training_stop = self._channel.hear()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """This process's part of the checkpoint is on disk."""
        del control
        self._channel.hand_over(checkpoint_folder(args, state) / random_state(args.process_index, of=args.world_size))


class StopWhenDiverged(TrainerCallback):
    """Ends a run that cannot be saved: see divergence.py. Comes before callbacks that show or save the state."""

    def __init__(self, *, vocabulary: int, last_before: Callable[[int], Checkpoint | None]) -> None:
        """`last_before` gives the newest checkpoint of an earlier step than the one named."""
        self._vocabulary = vocabulary
        self._last_before = last_before

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        """Raise TrainerError Diverged."""
        del control
        # With float16 an infinite gradient is no accident: the scaler skips that step and lowers its scale.
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            figure = float(values["logs"].get(name, 0.0))
            if not math.isfinite(figure):
                what = "loss" if name == "loss" else "norm of the gradient"
                raise self._ended(state, f"The {what} became {figure}", bad_from=state.global_step)
        mean = diverged(state.log_history, vocabulary=self._vocabulary)
        if mean is not None:
            highest = highest_sane_loss(state.log_history, vocabulary=self._vocabulary)
            raise self._ended(
                state,
                f"The mean loss of the last {WINDOW} steps rose to {mean:.2f}, above {highest:.2f},",
                bad_from=in_doubt_since(state.log_history, vocabulary=self._vocabulary) or state.global_step,
            )

    def _ended(self, state: TrainerState, what: str, *, bad_from: int) -> TrainerError:
        # The loss of a step measures the model before that step, so the update of the previous step caused it.
        good = self._last_before(bad_from - 1)
        kept = f"the last checkpoint before that is {good.uri}" if good else "there is no checkpoint before that"
        return TrainerError(
            ExitCode.Diverged,
            f"{what} at step {state.global_step} of {state.max_steps}; {kept}.",
            "Lower training.learningRate, raise training.warmupRatio, or set model.dtype to bfloat16.",
        )


class HandOverCheckpoints(TrainerCallback):
    """Moves each finished checkpoint out of the trainer's folder and hands it over.

    Moved, not copied: the trainer would otherwise meet it again when it rotates its own checkpoints.
    """

    def __init__(self, submit: Callable[..., None], *, folder: Path, channel: Channel) -> None:
        """`folder` must be on the same file system as the trainer's output folder."""
        self._submit = submit
        self._folder = folder
        self._channel = channel

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called when this process's part of the checkpoint is on disk."""
        del control
        saved = checkpoint_folder(args, state)
        self._channel.collect(saved)
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = saved.rename(self._folder / f"step-{state.global_step}")
        lowest = best(state.log_history)
        self._submit(taken, step=state.global_step, best_step=lowest.step if lowest else None)


class AfterFirstSteps(TrainerCallback):
    """Calls something once, when an attempt has done its first steps or all that were left."""

    def __init__(self, call: Callable[[], object], *, steps: int) -> None:
        self._call = call
        self._left = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called at each of them."""
        del args, state, control
        self._left -= 1
        if self._left == 0:
            self._call()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called after the last one."""
        del args, state, control
        if self._left > 0:
            self._call()


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the loop has just saved."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
