"""What the loop's callbacks decide at a step, without a loop: when to save, when to stop, when to give up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.callbacks import (
    AfterFirstSteps,
    EvaluateHeldOut,
    SaveAndStop,
    ShowProgress,
    StopWhenDiverged,
)
from lora_trainer.training.channel import Channel
from lora_trainer.training.checkpoints import Checkpoint
from transformers import TrainerControl, TrainerState, TrainingArguments

VOCABULARY = 49_152
GOOD = Checkpoint(step=4, uri="s3://team-a/runs/checkpoints/step-4")


class Stop:
    """A StopRequest that no signal is needed for."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    def defer(self) -> None:
        self.deferred = True


class Steps:
    """The callback at one step after another, with a clock that stands still between them."""

    def __init__(self, *, steps: int = 1000, seconds: float = 600.0, begin: int = 0) -> None:
        self.stop, self.busy, self.now = Stop(), False, 0.0
        self.state = TrainerState(global_step=begin, max_steps=60)
        self._saver = SaveAndStop(
            stop=self.stop,  # pyright: ignore[reportArgumentType] - stands in for it
            steps=steps,
            seconds=seconds,
            busy=lambda: self.busy,
            channel=Channel(count=1),
            vocabulary=VOCABULARY,
            clock=lambda: self.now,
        )
        self._arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
        self._saver.on_train_begin(self._arguments, self.state, TrainerControl())

    def take(self, *, seconds: float = 1.0, loss: float = 2.5) -> TrainerControl:
        """Do a step; the loop then saves where it was told to."""
        self.now += seconds
        self.state.global_step += 1
        control = TrainerControl()
        self._saver.on_step_end(self._arguments, self.state, control)
        self.state.log_history.append({"step": self.state.global_step, "loss": loss})
        if control.should_save:
            self._saver.on_save(self._arguments, self.state, control)
        return control

    def saved(self, count: int, **step: float) -> list[int]:
        """The steps saved at, of the next `count`."""
        return [self.state.global_step for _ in range(count) if self.take(**step).should_save]


def test_checkpoints_by_steps() -> None:
    assert Steps(steps=3).saved(10) == [3, 6, 9]
    assert Steps(steps=3, begin=4).saved(6) == [6, 9], "a resumed run keeps to the same steps"


def test_checkpoints_by_time() -> None:
    assert Steps(seconds=600).saved(10, seconds=200) == [3, 6, 9]
    assert Steps(steps=4, seconds=600).saved(8, seconds=200) == [3, 4, 7, 8], "by steps and by time"


def test_a_slow_bucket_is_not_waited_for() -> None:
    steps = Steps(steps=2)
    steps.busy = True
    assert steps.saved(5) == []
    steps.busy = False
    assert steps.saved(4) == [6, 8], "what was due is made at the first step after"


def test_when_asked_to_stop_it_saves_whatever_the_bucket_does() -> None:
    steps = Steps()
    steps.busy = True
    assert not steps.take().should_training_stop
    steps.stop.requested = True
    control = steps.take()
    assert control.should_save
    assert control.should_training_stop


def test_a_signal_is_deferred_from_the_first_step_on() -> None:
    steps = Steps(begin=20)
    assert not steps.stop.deferred, "there is nothing to save before"
    steps.take()
    assert steps.stop.deferred


def test_nothing_is_saved_while_the_loss_is_in_doubt() -> None:
    steps = Steps(steps=1)
    assert steps.saved(12) == list(range(1, 13))
    steps.take(loss=9.0)
    assert steps.saved(3, loss=9.0) == []
    steps.take(loss=2.5)
    assert steps.saved(1) == [18]


@pytest.mark.parametrize(
    ("logs", "fp16", "said"),
    [
        ({"loss": math.nan, "grad_norm": 1.0}, False, "loss became nan at step 7 of 60"),
        ({"loss": 2.0, "grad_norm": math.inf}, False, "norm of the gradient became inf at step 7 of 60"),
        ({"loss": 2.0, "grad_norm": math.inf}, True, None),
        ({"loss": 2.0, "grad_norm": 1.0}, False, None),
        ({"train_runtime": 3.0}, False, None),
    ],
)
def test_what_is_not_a_number_ends_the_run_and_names_the_last_good_checkpoint(
    logs: dict, fp16: bool, said: str | None, tmp_path: Path
) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    arguments.fp16 = fp16
    state = TrainerState(global_step=7, max_steps=60)
    asked: list[int] = []

    def last_before(step: int) -> Checkpoint:
        asked.append(step)
        return GOOD

    guard = StopWhenDiverged(vocabulary=VOCABULARY, last_before=last_before)
    if said is None:
        guard.on_log(arguments, state, TrainerControl(), logs=logs)
        return
    with pytest.raises(TrainerError, match=f"{said}; the last checkpoint before that is {GOOD.uri}") as ended:
        guard.on_log(arguments, state, TrainerControl(), logs=logs)
    assert ended.value.code == ExitCode.Diverged
    assert asked == [6], "the update before the bad loss did the harm"


def test_the_pace_is_shown_only_while_a_step_is_due(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    state, control, now = TrainerState(max_steps=60), TrainerControl(), 0.0
    progress = ProgressServer(port=0)
    shown = ShowProgress(progress, peak_memory_gib=lambda: 1.0, peak_tokens_per_second=None, clock=lambda: now)
    shown.on_train_begin(arguments, state, control)
    paces = []
    for seconds in (90.0, 2.0, 2.0, 30.0, 2.0):
        now, state.global_step = now + seconds, state.global_step + 1
        shown.on_log(arguments, state, control, logs={"loss": 2.0, "learning_rate": 1e-4})
        paces.append(progress.progress.step_seconds)
    assert paces == [None, None, 2.0, 16.0, 2.0]
    during: list[float | None] = []
    evaluator = EvaluateHeldOut(
        lambda _: during.append(progress.progress.step_seconds), every=5, early_stopping=None, progress=progress
    )
    evaluator.on_step_end(arguments, state, control, model=None)
    assert during == [None], "an evaluation may last long"
    shown.on_log(arguments, state, control, logs={"loss": 2.0, "learning_rate": 1e-4})
    assert progress.progress.step_seconds == 2.0
    control.should_training_stop = True
    shown.on_log(arguments, state, control, logs={"loss": 2.0, "learning_rate": 1e-4})
    assert progress.progress.step_seconds is None, "the last checkpoint may be on its way for long"


@pytest.mark.parametrize(("taken", "called_after"), [(1, "the end"), (4, 4), (9, 4)])
def test_what_follows_the_first_steps_follows_once(tmp_path: Path, taken: int, called_after: int | str) -> None:
    now: list[int | str] = [0]
    calls: list[int | str] = []
    callback = AfterFirstSteps(lambda: calls.append(now[-1]), steps=4)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for step in range(1, taken + 1):
        now.append(step)
        callback.on_step_end(arguments, TrainerState(), TrainerControl())
    now.append("the end")
    callback.on_train_end(arguments, TrainerState(), TrainerControl())
    assert calls == [called_after]
