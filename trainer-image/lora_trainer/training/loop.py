"""The training loop of one attempt: takes the steps that are left, commits checkpoints, stops when asked to.

Imports torch, TRL and the callbacks inside its functions: Unsloth must be imported before them (see libraries.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from lora_trainer.contract.layout import checkpoints_uri
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.training import Method
from lora_trainer.evaluation.held_out import HeldOut, held_out_rows
from lora_trainer.methods import dpo, grpo, sft
from lora_trainer.model import adapter_digest, load_adapter_weights, peak_flops, peak_memory_gib
from lora_trainer.model_shape import model_shape
from lora_trainer.prepared import TRAIN_ROWS, read_prepared
from lora_trainer.rewards.panel import Panel
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.channel import Channel
from lora_trainer.training.checkpoints import TRAINER_STATE, Checkpoint, CheckpointWriter, fetch_step
from lora_trainer.training.compile_cache import STEPS_THAT_COMPILE, CompileCache
from lora_trainer.training.device_errors import explained
from lora_trainer.training.first_batch import check_first_batch
from lora_trainer.training.nodes import Nodes
from lora_trainer.training.ranks import restore_on_numbered_cpus
from lora_trainer.training.selection import best, by_step, evaluation_due, exhausted, held_out_losses
from lora_trainer.training.stopping import StopRequest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

    from lora_trainer.training.callbacks import ShowProgress


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a run, and what it works with."""

    run: RunFile
    bucket: Bucket
    progress: ProgressServer
    stop: StopRequest
    nodes: Nodes
    scratch: Path
    """The only writable folder."""
    number: int
    """From 1."""
    oom_shrinks: int
    """How often the micro-batch is halved."""

    @property
    def prepared(self) -> Path:
        """Where the prepared set is fetched to."""
        return self.scratch / "prepared"


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """The result of a loop, in addition to the adapter's weights in the model."""

    history: Sequence[Mapping]
    """One entry per step, those of earlier attempts too."""
    step: int
    """The step whose adapter is in the model."""
    best_step: int | None
    """The same, where held-out losses chose it."""
    seconds: float
    """Taken by this attempt's steps."""
    tokens: int
    """Non-padding tokens of this attempt's steps."""


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A checkpoint that was fetched."""

    checkpoint: Checkpoint
    folder: Path


def run_loop(
    attempt: Attempt,
    chosen: Chosen,
    *,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    panel: Panel,
    resume: Resume | None,
    writer: CheckpointWriter,
    compiled: CompileCache,
) -> LoopResult:
    """Train `model` in place and leave the best adapter in it, or the last where no held-out losses were wanted.

    Returns when the last state is committed, also when asked to stop.
    """
    stop = attempt.stop
    held_out = held_out_rows(attempt.prepared, attempt.run, dtype=chosen.dtype, interrupted=lambda: stop.requested)
    history = resumed_history(attempt, chosen, model=model, held_out=held_out, resume=resume)
    seconds, tokens = 0.0, 0
    step = resume.checkpoint.step if resume else 0
    if more_steps(attempt.run, chosen, step=step, history=history):
        attempt.nodes.agree({})
        channel = Channel(count=attempt.run.parallelism.processes)
        shown, events = first_process(
            attempt, chosen, model=model, held_out=held_out, writer=writer, compiled=compiled, channel=channel
        )
        trainer = build_loop(
            attempt.run, chosen, model=model, tokenizer=tokenizer, scratch=attempt.scratch, events=events, panel=panel
        )
        began = time.monotonic()
        with explained(attempt.run, chosen, attempt.progress):
            trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
        seconds, tokens = time.monotonic() - began, shown.tokens
        writer.join()
        channel.require_same(adapter_digest(model))
        channel.close()
        step, history = trainer.state.global_step, trainer.state.log_history
    lowest = best(history)
    best_step = lowest.step if lowest else None
    if best_step is not None and best_step != step and not stop.requested:
        load_step(attempt, model, step=best_step)
    return LoopResult(
        history=by_step(history), step=best_step or step, best_step=best_step, seconds=seconds, tokens=tokens
    )


def more_steps(run: RunFile, chosen: Chosen, *, step: int, history: list[dict[str, Any]]) -> bool:
    """Whether any step follows this one, with the log up to it."""
    return step < chosen.max_steps and not exhausted(history, run.training.early_stopping)


def steps_left(run: RunFile, chosen: Chosen, *, resume: Resume | None) -> bool:
    """Whether steps are left to train, from the checkpoint's own log, before the model is loaded."""
    if resume is None:
        return True
    history = json.loads((resume.folder / TRAINER_STATE).read_text())["log_history"]
    return more_steps(run, chosen, step=resume.checkpoint.step, history=history)


def resumed_history(
    attempt: Attempt, chosen: Chosen, *, model: PeftModel, held_out: HeldOut, resume: Resume | None
) -> list[dict[str, Any]]:
    """The trainer's log up to the checkpoint, whose weights are put into `model`.

    Repeats the evaluation that is missing where the previous attempt was asked to stop during it.
    """
    if resume is None:
        return []
    load_adapter_weights(model, resume.folder)
    file = resume.folder / TRAINER_STATE
    state = json.loads(file.read_text())
    history, step = state["log_history"], state["global_step"]
    if evaluation_due(history, step=step, every=chosen.eval_steps, last=step >= chosen.max_steps):
        history.append({"step": step, "epoch": state["epoch"], "eval_loss": held_out.loss(model)})
        file.write_text(json.dumps(state))
    if lowest := best(history):
        attempt.progress.update(eval_loss=held_out_losses(history)[-1].loss, best_step=lowest.step)
    return history


def load_step(attempt: Attempt, model: PeftModel, *, step: int) -> None:
    """Put the adapter of this step's checkpoint into `model`."""
    folder = attempt.scratch / "best"
    fetch_step(attempt.bucket, checkpoints_uri(attempt.run), step=step, folder=folder)
    load_adapter_weights(model, folder)


def build_loop(
    run: RunFile,
    chosen: Chosen,
    *,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    scratch: Path,
    events: list[TrainerCallback],
    panel: Panel | None = None,
) -> Trainer:
    """The method's trainer over the prepared rows, whose first batch is checked. `events` is what happens at its steps,
    in this order."""
    from datasets import Dataset

    if run.parallelism.processes > 1 and run.accelerator.kind is AcceleratorKind.CPU:
        restore_on_numbered_cpus()
    rows = scratch / "prepared" / TRAIN_ROWS
    trainer = trainer_builder(run.training.method, panel)(
        run,
        chosen=chosen,
        model=model,
        tokenizer=tokenizer,
        rows=Dataset.from_parquet(str(rows), cache_dir=str(scratch / "datasets")),
        folder=scratch / "trainer",
        callbacks=events,
    )
    check_first_batch(model, rows, method=run.training.method)
    return trainer


def trainer_builder(method: Method, panel: Panel | None) -> Callable[..., Trainer]:
    """What builds the trainer of a method; only GRPO has a panel."""
    match method:
        case Method.SFT:
            return sft.build_trainer
        case Method.DPO:
            return dpo.build_trainer
        case Method.GRPO:
            if panel is None:
                raise ValueError("method GRPO needs its panel of rewards")
            return partial(grpo.build_trainer, panel=panel)
        case _:
            assert_never(method)


def first_process(
    attempt: Attempt,
    chosen: Chosen,
    *,
    model: PeftModel,
    held_out: HeldOut,
    writer: CheckpointWriter,
    compiled: CompileCache,
    channel: Channel,
) -> tuple[ShowProgress, list[TrainerCallback]]:
    """What happens at the steps of the first process, in this order, and the first of it that shows progress."""
    from lora_trainer.training import callbacks

    training, progress = attempt.run.training, attempt.progress
    vocabulary = model.config.vocab_size
    shown = callbacks.ShowProgress(
        progress,
        peak_memory_gib=lambda: peak_memory_gib(attempt.run.accelerator.kind),
        peak_tokens_per_second=peak_tokens_per_second(attempt, chosen, model=model),
    )
    return shown, [
        callbacks.StopWhenDiverged(vocabulary=vocabulary, last_before=lambda step: writer.newest(before=step)),
        shown,
        callbacks.EvaluateHeldOut(
            held_out.loss, every=chosen.eval_steps, early_stopping=training.early_stopping, progress=progress
        ),
        callbacks.SaveAndStop(
            stop=attempt.stop,
            steps=chosen.save_steps,
            seconds=60 * training.save_minutes,
            busy=lambda: writer.busy,
            channel=channel,
            vocabulary=vocabulary,
        ),
        callbacks.HandOverCheckpoints(writer.submit, folder=attempt.scratch / "checkpoints", channel=channel),
        callbacks.AfterFirstSteps(compiled.first_steps_done, steps=STEPS_THAT_COMPILE),
    ]


def peak_tokens_per_second(attempt: Attempt, chosen: Chosen, *, model: PeftModel) -> float | None:
    """The speed at which the accelerator does nothing but the model's arithmetic; None where that is not known."""
    data = read_prepared(attempt.prepared).result.dataset
    shape = model_shape(model.config.to_dict())
    work = shape.flops_per_token(attempt.run.lora, row_tokens=data.tokens / (data.answer_samples or data.kept))
    peak = peak_flops(attempt.run.accelerator.kind, dtype=chosen.dtype)
    return attempt.run.parallelism.processes * peak / work if peak and work else None
