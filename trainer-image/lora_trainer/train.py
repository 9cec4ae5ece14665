"""`python -m lora_trainer train`: one run from its prepared rows to a published and verified adapter.

`train` reads top to bottom; each stage has its own module. An attempt that was stopped or killed is followed by
another, which resumes from the newest checkpoint, so no stage may assume that it runs for the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.layout import checkpoints_uri
from lora_trainer.contract.outcome import Chosen, TrainResult, Usage
from lora_trainer.contract.progress import Phase
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.contract.spec.training import Method
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.evaluation.pairs import evaluate_pairs, read_pairs
from lora_trainer.evaluation.rewards import evaluate_rewards, read_prompts
from lora_trainer.evaluation.rows import evaluate, read_rows
from lora_trainer.model import peak_memory_gib, release_memory
from lora_trainer.prepared import EVAL_ROWS, Prepared, Prompt, set_rows
from lora_trainer.publishing.delivery import Delivery, deliver
from lora_trainer.publishing.folder import write_folder
from lora_trainer.publishing.signing import read_signer
from lora_trainer.redaction import take
from lora_trainer.rewards.panel import Panel, open_panel
from lora_trainer.training.checkpoints import Checkpoint, CheckpointWriter, fetch_newest
from lora_trainer.training.compile_cache import CompileCache
from lora_trainer.training.device_errors import explained
from lora_trainer.training.loop import Attempt, LoopResult, Resume, run_loop, steps_left
from lora_trainer.training.ranks import Ranks, free_port
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

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def train(this: Attempt) -> TrainResult:
    """Train, evaluate, publish and verify. Raises TrainerError, with a result where the adapter is in the bucket
    nevertheless."""
    run, progress, nodes, stop = this.run, this.progress, this.nodes, this.stop
    # Remove the key from the environment: no other process needs it.
    signer = read_signer(run, take(SIGNING_KEY_VARIABLE))

    with nodes:
        progress.update(phase=Phase.DATA)
        fetched = while_importing(this, lambda: fetch(this))
        this, prepared, resume, base = fetched.attempt, fetched.prepared, fetched.resume, fetched.base
        run, result = this.run, prepared.result
        chosen = chosen_here(run, result, oom_shrinks=this.oom_shrinks)
        log.info("Attempt %d", this.number, extra={"fields": chosen.wire()})
        compiled = compile_cache(this, chosen, base=base)
        with other_processes(this, chosen, base=base, resume=resume, compiled=compiled):
            model, tokenizer = load_trainable(
                run, chosen, base=base, prepared=prepared, scratch=this.scratch, progress=progress
            )
            progress.update(phase=Phase.TRAINING)
            writer = checkpoint_writer(this, digest=result.run_digest)
            with stop.deferrable(), judges(this) as panel, writer:
                loop = run_loop(
                    this,
                    chosen,
                    model=model,
                    tokenizer=tokenizer,
                    panel=panel,
                    resume=resume,
                    writer=writer,
                    compiled=compiled,
                )
    if stop.requested:
        raise interrupted(nodes.place, progress)

    progress.update(phase=Phase.EVALUATING)
    with explained(run, chosen, progress):
        evaluation = compare(this, model, tokenizer, prompts=prepared.prompts, dtype=chosen.dtype)

    progress.update(phase=Phase.PUBLISHING)
    folder = this.scratch / "adapter"
    write_folder(
        folder,
        run=run,
        prepared=prepared,
        model=model,
        base=base,
        loop=loop,
        evaluation=evaluation,
        signing_key=signer.verifier.key_id if signer else None,
    )
    used = usage(loop, peak_memory=peak_memory_gib(run.accelerator.kind))
    del model, tokenizer
    release_memory()
    return deliver(
        Delivery(
            this=this,
            prepared=result,
            base=base,
            folder=folder,
            steps=loop.step,
            best_step=loop.best_step,
            evaluation=evaluation,
            usage=used,
            signer=signer,
        )
    )


def other_processes(
    this: Attempt, chosen: Chosen, *, base: Path, resume: Resume | None, compiled: CompileCache
) -> AbstractContextManager[Ranks | None]:
    """The other processes that share the remaining steps, once all nodes are connected and compiled code is fetched.

    None where no step is left. Raises TrainerError."""
    if not steps_left(this.run, chosen, resume=resume):
        return nullcontext()
    compiled.fetch()
    port = free_port()
    this.nodes.agree({"step": resume.checkpoint.step if resume else None, "port": port})
    return further_ranks(this, base=base, resume=resume.folder if resume else None, port=port)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Everything that an attempt fetches."""

    attempt: Attempt
    """The attempt, with the run as it was prepared."""
    prepared: Prepared
    resume: Resume | None
    base: Path
    """Folder of the base model."""


def fetch(this: Attempt) -> Fetched:
    """Fetch what an attempt needs, small files first. Raises TrainerError."""
    attempt, prepared = fetch_prepared(this)
    with judges(attempt) as panel:
        panel.load()
    resume = fetch_checkpoint(attempt, digest=prepared.result.run_digest)
    return Fetched(attempt=attempt, prepared=prepared, resume=resume, base=fetch_base(attempt, prepared.result))


def compare(
    this: Attempt, model: PeftModel, tokenizer: PreTrainedTokenizerBase, *, prompts: Sequence[Prompt], dtype: str
) -> EvaluationFile:
    """Base and adapter on the held-out rows and on the further sets."""
    spec = this.run.evaluation
    measured = partial(measure, this, model, tokenizer, dtype=dtype)
    file = measured(this.prepared / EVAL_ROWS, spec=spec, prompts=prompts)
    sets = tuple(
        measured(this.prepared / set_rows(named.name), spec=spec.of_set(named), prompts=()).of_set(named.name)
        for named in spec.datasets
    )
    return file.with_sets(sets) if sets else file


def measure(
    this: Attempt,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    spec: EvaluationSpec,
    prompts: Sequence[Prompt],
    dtype: str,
) -> EvaluationFile:
    """Base and adapter on the rows of a file, as the run's method measures them."""
    training = this.run.training
    match training.method:
        case Method.SFT:
            rows = read_rows(path, limit=spec.max_rows)
            return evaluate(model, tokenizer, rows, spec=spec, prompts=prompts, dtype=dtype)
        case Method.DPO:
            pairs, beta = read_pairs(path, limit=spec.max_rows), training.dpo_settings.beta
            return evaluate_pairs(model, tokenizer, pairs, beta=beta, spec=spec, prompts=prompts, dtype=dtype)
        case Method.GRPO:
            assert training.grpo, "the API server lets no GRPO through without its settings"
            held_out, longest = read_prompts(path, limit=spec.max_rows), training.grpo.max_completion_length
            with judges(this) as panel:
                return evaluate_rewards(
                    model,
                    tokenizer,
                    held_out,
                    panel=panel,
                    longest=longest,
                    spec=spec,
                    prompts=prompts,
                    dtype=dtype,
                )
        case _:
            assert_never(training.method)


def judges(this: Attempt) -> AbstractContextManager[Panel]:
    """The rewards of method GRPO, with the code that prepare stored; none for other methods."""
    grpo = this.run.training.grpo
    return open_panel(grpo.rewards if grpo else (), this.prepared)


def fetch_checkpoint(this: Attempt, *, digest: str) -> Resume | None:
    """Fetch the newest checkpoint of this run, if there is one, and report it in progress."""
    folder = this.scratch / "resumed"
    checkpoint = fetch_newest(this.bucket, checkpoints_uri(this.run), fingerprint=digest, folder=folder)
    if checkpoint is None:
        return None
    step = checkpoint.step
    this.progress.update(step=step, checkpoint=checkpoint.uri, checkpoint_step=step, resumed_from_step=step)
    return Resume(checkpoint=checkpoint, folder=folder)


def checkpoint_writer(this: Attempt, *, digest: str) -> CheckpointWriter:
    """A writer that reports committed checkpoints in progress."""

    def show(checkpoint: Checkpoint) -> None:
        this.progress.update(checkpoint=checkpoint.uri, checkpoint_step=checkpoint.step)

    return CheckpointWriter(
        bucket=this.bucket,
        uri=checkpoints_uri(this.run),
        fingerprint=digest,
        keep=this.run.training.save_total_limit,
        on_commit=show,
        processes=this.run.parallelism.processes,
    )


def usage(loop: LoopResult, *, peak_memory: float) -> Usage:
    """Usage of this attempt; zeros where all steps were done before."""
    return Usage(
        train_seconds=round(loop.seconds, 1),
        tokens_per_second=round(loop.tokens / loop.seconds, 1) if loop.seconds else 0.0,
        peak_memory_gib=round(peak_memory, 2),
    )
