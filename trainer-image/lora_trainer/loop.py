"""The training loop of one attempt: takes the steps that are left, commits checkpoints, stops when asked to.

Imports torch, TRL and the callbacks inside its functions: Unsloth must have been imported before them (see model.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lora_trainer.checkpoints import Checkpoint, CheckpointWriter
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec import Method
from lora_trainer.errors import TrainerError
from lora_trainer.methods import dpo, grpo, sft
from lora_trainer.model import load_adapter_weights, peak_memory_gib
from lora_trainer.prepared import TRAIN_ROWS
from lora_trainer.rewards.panel import Panel
from lora_trainer.stopping import StopRequest
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a run, and what it works with."""

    run: RunFile
    bucket: Bucket
    progress: ProgressServer
    stop: StopRequest
    scratch: Path
    """The only writable folder."""

    @property
    def prepared(self) -> Path:
        """Where the prepared set is fetched to."""
        return self.scratch / "prepared"


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What a loop leaves behind, besides the adapter's weights in the model."""

    history: Sequence[Mapping]
    """The trainer's log of all steps, those of earlier attempts too."""
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
) -> LoopResult:
    """Train `model` in place. Returns when the last state is committed, also when asked to stop."""
    if resume and resume.checkpoint.step >= chosen.max_steps:
        load_adapter_weights(model, resume.folder)
        state = json.loads((resume.folder / "trainer_state.json").read_text())
        return LoopResult(history=state["log_history"], seconds=0.0, tokens=0)
    from datasets import Dataset  # noqa: PLC0415 - see the module's docstring

    from lora_trainer import callbacks  # noqa: PLC0415 - after Unsloth

    progress, scratch = attempt.progress, attempt.scratch
    shown = callbacks.ShowProgress(progress)
    trainer = trainer_builder(attempt.run.training.method, panel)(
        attempt.run,
        chosen=chosen,
        model=model,
        tokenizer=tokenizer,
        rows=Dataset.from_parquet(str(attempt.prepared / TRAIN_ROWS), cache_dir=str(scratch / "datasets")),
        folder=scratch / "trainer",
        callbacks=[
            callbacks.StopWhenDiverged(),
            shown,
            callbacks.StopOnRequest(lambda: attempt.stop.requested),
            callbacks.HandOverCheckpoints(writer.submit, folder=scratch / "checkpoints"),
        ],
    )
    began = time.monotonic()
    with explained(attempt, chosen):
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    seconds = time.monotonic() - began
    writer.join()
    return LoopResult(history=trainer.state.log_history, seconds=seconds, tokens=shown.tokens)


def trainer_builder(method: Method, panel: Panel) -> Callable[..., Trainer]:
    """What builds the trainer of a method."""
    match method:
        case Method.SFT:
            return sft.build_trainer
        case Method.DPO:
            return dpo.build_trainer
        case Method.GRPO:
            return partial(grpo.build_trainer, panel=panel)
        case _:
            assert_never(method)


@contextmanager
def explained(attempt: Attempt, chosen: Chosen) -> Iterator[None]:
    """Turns torch's memory and device errors into TrainerErrors with the numbers that matter."""
    import torch  # noqa: PLC0415 - see the module's docstring

    class_ = attempt.run.accelerator
    try:
        yield
    except torch.OutOfMemoryError as error:
        held = f"{peak_memory_gib(class_.kind):.1f} GiB" + (f" of {class_.memory_gib:g}" if class_.memory_gib else "")
        raise _failed(
            attempt,
            ExitCode.OutOfMemory,
            f"Memory ran out with {chosen.per_device_train_batch_size} rows per forward pass ({held} held)",
            "Lower model.maxSeqLength or training.perDeviceTrainBatchSize, or choose a class with more memory.",
        ) from error
    except torch.AcceleratorError as error:
        raise _failed(
            attempt,
            ExitCode.GpuUnhealthy,
            f"The GPU failed ({str(error).splitlines()[0]})",
            "Check the node's GPU; the next attempt goes on from the last checkpoint.",
        ) from error


def _failed(attempt: Attempt, code: ExitCode, what: str, remedy: str) -> TrainerError:
    now = attempt.progress.progress
    message = f"{what} after step {now.step} of {now.total_steps}."
    return TrainerError(code, message, remedy)
