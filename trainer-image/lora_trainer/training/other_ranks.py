"""The processes other than the first: further ones of a node, and the first ones of further nodes. They take the same
steps on other rows, publish nothing and keep no checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.layout import checkpoints_uri
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.progress import Phase
from lora_trainer.contract.run import RunFile
from lora_trainer.libraries import environment
from lora_trainer.model import adapter_digest
from lora_trainer.prepared import Prepared, read_prepared
from lora_trainer.redaction import take
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.channel import Channel
from lora_trainer.training.checkpoints import fetch_step
from lora_trainer.training.device_errors import explained
from lora_trainer.training.loop import Attempt, build_loop
from lora_trainer.training.start import (
    chosen_here,
    compile_cache,
    fetch_base,
    fetch_prepared,
    further_ranks,
    interrupted,
    load_trainable,
    while_importing,
)
from lora_trainer.training.stopping import StopRequest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback


def train_node(this: Attempt) -> None:
    """The first process of a further node, which fetches for all of that node. Raises TrainerError."""
    take(SIGNING_KEY_VARIABLE)
    progress, nodes, stop = this.progress, this.nodes, this.stop
    with nodes:
        progress.update(phase=Phase.DATA)
        this, prepared, base = while_importing(this, lambda: _fetch(this))
        run = this.run
        chosen = chosen_here(run, prepared.result, oom_shrinks=this.oom_shrinks)
        compile_cache(this, chosen, base=base).fetch()
        if (plan := nodes.agree()) is None:
            return
        resume = _fetch_resumed(this, step=plan["step"])
        with further_ranks(this, base=base, resume=resume, port=plan["port"]):
            model, tokenizer = load_trainable(
                run, chosen, base=base, prepared=prepared, scratch=this.scratch, progress=progress
            )
            if nodes.agree() is None:
                return
            with stop.deferrable():
                take_the_same_steps(
                    run,
                    chosen,
                    model=model,
                    tokenizer=tokenizer,
                    scratch=this.scratch,
                    resume=resume,
                    progress=progress,
                    stop=stop,
                )
    if stop.requested:
        raise interrupted(nodes.place, progress)


def train_rank(run: RunFile, *, scratch: Path, base: Path, resume: Path | None, rank: int, oom_shrinks: int) -> None:
    """A further process of a node, whose first one has fetched everything into `scratch`. Raises TrainerError."""
    os.environ.update(environment(kind=run.accelerator.kind, scratch=scratch, rank=rank, ranks=run.parallelism.gpus))
    prepared = read_prepared(scratch / "prepared")
    chosen = chosen_here(run, prepared.result, oom_shrinks=oom_shrinks)
    silent = ProgressServer(port=0)
    silent.update(phase=Phase.LOADING, total_steps=chosen.max_steps)
    model, tokenizer = load_trainable(run, chosen, base=base, prepared=prepared, scratch=scratch, progress=silent)
    take_the_same_steps(run, chosen, model=model, tokenizer=tokenizer, scratch=scratch, resume=resume, progress=silent)


def take_the_same_steps(
    run: RunFile,
    chosen: Chosen,
    *,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    scratch: Path,
    resume: Path | None,
    progress: ProgressServer,
    stop: StopRequest | None = None,
) -> None:
    """Take the same steps as the first process, on other rows; `resume` is the checkpoint that it resumes from."""
    from lora_trainer.training import callbacks

    progress.update(phase=Phase.TRAINING)
    channel = Channel(count=run.parallelism.processes)
    events: list[TrainerCallback] = [callbacks.FollowFirst(channel, progress=progress, stop=stop)]
    with explained(run, chosen, progress):
        trainer = build_loop(run, chosen, model=model, tokenizer=tokenizer, scratch=scratch, events=events)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    channel.require_same(adapter_digest(model))
    channel.close()


def _fetch(this: Attempt) -> tuple[Attempt, Prepared, Path]:
    """The attempt at the run as it was prepared, its prepared set, and the base model's folder."""
    this, prepared = fetch_prepared(this)
    return this, prepared, fetch_base(this, prepared.result)


def _fetch_resumed(this: Attempt, *, step: int | None) -> Path | None:
    """Fetch the checkpoint that the first node resumes from."""
    if step is None:
        return None
    folder = this.scratch / "resumed"
    fetch_step(this.bucket, checkpoints_uri(this.run), step=step, folder=folder)
    this.progress.update(step=step, resumed_from_step=step)
    return folder
