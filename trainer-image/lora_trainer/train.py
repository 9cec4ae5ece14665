"""`python -m lora_trainer train`: one run from its prepared rows to a published and proven adapter.

`train` reads top to bottom; each stage stands in a module of its own. An attempt that was stopped or killed is
followed by another, which resumes from the newest checkpoint: no stage assumes that it is the first to run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, assert_never

from lora_trainer.base_model.resolve import base_folder
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import checkpoints_uri, prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Chosen, PrepareResult, TrainResult, Usage
from lora_trainer.contract.progress import Stage
from lora_trainer.contract.run import RunFile, run_digest
from lora_trainer.contract.spec.training import Method
from lora_trainer.errors import TrainerError
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.evaluation.held_out import held_out_rows
from lora_trainer.evaluation.pairs import evaluate_pairs, read_pairs
from lora_trainer.evaluation.rewards import evaluate_rewards, read_prompts
from lora_trainer.evaluation.rows import evaluate, read_rows
from lora_trainer.model import (
    add_adapter,
    compute_dtype,
    environment,
    go_offline,
    load,
    peak_memory_gib,
    release_memory,
    require_accelerator,
)
from lora_trainer.prepared import EVAL_ROWS, Prepared, Prompt, read_prepared
from lora_trainer.publishing.delivery import Delivery, deliver
from lora_trainer.publishing.folder import write_folder
from lora_trainer.publishing.signing import read_signer
from lora_trainer.rewards.panel import Panel, open_panel
from lora_trainer.sizing import shrink
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.checkpoints import Checkpoint, CheckpointWriter, fetch_newest
from lora_trainer.training.device_errors import explained
from lora_trainer.training.loop import Attempt, LoopResult, Resume, run_loop, train_beside
from lora_trainer.training.ranks import Ranks
from lora_trainer.training.stopping import StopRequest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def train(
    run: RunFile,
    *,
    bucket: Bucket,
    progress: ProgressServer,
    scratch: Path,
    attempt: int,
    oom_shrinks: int,
    leave: Callable[[TrainerError], NoReturn],
) -> TrainResult:
    """Train, evaluate, publish and verify. Raises TrainerError, with a result where the adapter is in the bucket all
    the same.

    `leave` ends the process at once, and is called from another thread.
    """
    stop = StopRequest(leave=lambda: leave(interrupted(progress)))
    this = Attempt(run=run, bucket=bucket, progress=progress, stop=stop, scratch=scratch)
    # Taken out of the environment: no other process needs it.
    signer = read_signer(run, os.environ.pop(SIGNING_KEY_VARIABLE, ""))
    gpus = run.resources.gpus
    os.environ.update(environment(kind=run.accelerator.kind, scratch=scratch, ranks=gpus))
    require_accelerator(run.accelerator.kind, count=gpus)

    progress.update(stage=Stage.DATA)
    prepared = fetch_prepared(this)
    result = prepared.result
    with judges(this) as panel:
        panel.load()
    resume = fetch_checkpoint(this, digest=result.run_digest)

    progress.update(stage=Stage.LOADING, total_steps=result.chosen.max_steps)
    base = base_folder(run, revision=result.model.revision, bucket=bucket, scratch=scratch / "base")
    go_offline()
    chosen = compute_dtype(run, shrink(result.chosen, oom_shrinks))
    log.info("Attempt %d", attempt, extra={"fields": chosen.wire()})
    shared = rank_arguments(this, base=base, resume=resume, oom_shrinks=oom_shrinks)
    with Ranks(count=gpus, arguments=shared, scratch=scratch, leave=leave):
        with explained(run, chosen, progress):
            model, tokenizer = load_trainable(run, chosen, base=base, prepared=prepared)

        progress.update(stage=Stage.TRAINING)
        held_out = held_out_rows(this.prepared, run, dtype=chosen.dtype, interrupted=lambda: stop.requested)
        writer = checkpoint_writer(this, digest=result.run_digest)
        with stop.deferrable(), judges(this) as panel, writer:
            loop = run_loop(
                this,
                chosen,
                model=model,
                tokenizer=tokenizer,
                panel=panel,
                held_out=held_out,
                resume=resume,
                writer=writer,
            )
    if stop.requested:
        raise interrupted(progress)

    progress.update(stage=Stage.EVALUATING)
    with explained(run, chosen, progress):
        evaluation = compare(this, model, tokenizer, prompts=prepared.prompts, dtype=chosen.dtype)

    progress.update(stage=Stage.PUBLISHING)
    folder = scratch / "adapter"
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


def compare(
    this: Attempt, model: PeftModel, tokenizer: PreTrainedTokenizerBase, *, prompts: Sequence[Prompt], dtype: str
) -> EvaluationFile:
    """Base and adapter on the held-out rows, as the run's method measures them."""
    path, spec, training = this.prepared / EVAL_ROWS, this.run.evaluation, this.run.training
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
    """The rewards of method GRPO, with the code that prepare took; none for other methods."""
    grpo = this.run.training.grpo
    return open_panel(grpo.rewards if grpo else (), this.prepared)


def rank_arguments(this: Attempt, *, base: Path, resume: Resume | None, oom_shrinks: int) -> list[str | Path]:
    """Options of `lora_trainer rank` for the processes beside this one."""
    arguments: list[str | Path] = ["--run", run_file(this), "--scratch", this.scratch, "--base", base]
    arguments += ["--oom-shrinks", str(oom_shrinks)]
    return [*arguments, "--resume", resume.folder] if resume else arguments


def train_rank(run: RunFile, *, scratch: Path, base: Path, resume: Path | None, rank: int, oom_shrinks: int) -> None:
    """One of the processes beside the first, which has fetched everything into `scratch`. Raises TrainerError."""
    kind, ranks = run.accelerator.kind, run.resources.gpus
    os.environ.update(environment(kind=kind, scratch=scratch, rank=rank, ranks=ranks))
    prepared = read_prepared(scratch / "prepared")
    chosen = compute_dtype(run, shrink(prepared.result.chosen, oom_shrinks))
    silent = ProgressServer(port=0)
    silent.update(stage=Stage.LOADING, total_steps=chosen.max_steps)
    with explained(run, chosen, silent):
        model, tokenizer = load_trainable(run, chosen, base=base, prepared=prepared)
        silent.update(stage=Stage.TRAINING)
        train_beside(run, chosen, model=model, tokenizer=tokenizer, scratch=scratch, resume=resume)


def load_trainable(
    run: RunFile, chosen: Chosen, *, base: Path, prepared: Prepared
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The base model with a fresh adapter, and the tokenizer that batches are padded with."""
    model, tokenizer = load(run, folder=base, dtype=chosen.dtype)
    tokenizer.pad_token_id, tokenizer.eos_token_id = prepared.pad_token_id, prepared.eos_token_id
    return add_adapter(model, run, kept_layers=chosen.kept_layers), tokenizer


def interrupted(progress: ProgressServer) -> TrainerError:
    """The ending of an attempt that was asked to stop."""
    now = progress.progress
    kept = f"; the next attempt goes on from step {now.checkpoint_step}" if now.checkpoint else "; no step was lost"
    message = f"Stopped on request while {now.stage} at step {now.step}{kept}."
    return TrainerError(ExitCode.Interrupted, message)


def fetch_prepared(this: Attempt) -> Prepared:
    """Fetch the prepared set and compare it with its manifest. Raises TrainerError."""
    uri = prepared_uri(this.run)
    found = this.bucket.read_manifest(uri, SetManifest)
    remedy = "The work folder of a run must stay until the run is done; apply the fine-tune under a new name."
    if found is None:
        raise TrainerError(ExitCode.StorageUnavailable, f"There is no complete prepared set at {uri}.", remedy)
    this.bucket.fetch_files(found.files, uri, this.prepared)
    prepared = read_prepared(this.prepared)
    if prepared.result.run_digest != found.fingerprint:
        raise TrainerError(ExitCode.StorageUnavailable, f"The prepared set at {uri} is of two runs.", remedy)
    require_same_run(this.run, prepared.result)
    return prepared


def require_same_run(run: RunFile, prepared: PrepareResult) -> None:
    """Raise ConfigInvalid where the run file is not the one that prepare read: somebody changed it since."""
    digest = run_digest(
        run,
        data_digest=prepared.dataset.digest,
        model_revision=prepared.model.revision,
        code_digest=prepared.code_digest,
    )
    if digest != prepared.run_digest:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"The run file (digest {digest[:12]}) is not the one that the run was prepared with (digest "
            f"{prepared.run_digest[:12]}): its ConfigMap or the trainer image was replaced.",
            "Apply the fine-tune under a new name.",
        )


def fetch_checkpoint(this: Attempt, *, digest: str) -> Resume | None:
    """Fetch the newest checkpoint of this run, if there is one, and show it."""
    folder = this.scratch / "resumed"
    checkpoint = fetch_newest(this.bucket, checkpoints_uri(this.run), fingerprint=digest, folder=folder)
    if checkpoint is None:
        return None
    step = checkpoint.step
    this.progress.update(step=step, checkpoint=checkpoint.uri, checkpoint_step=step, resumed_from_step=step)
    return Resume(checkpoint=checkpoint, folder=folder)


def checkpoint_writer(this: Attempt, *, digest: str) -> CheckpointWriter:
    """A writer that shows what it commits."""

    def show(checkpoint: Checkpoint) -> None:
        this.progress.update(checkpoint=checkpoint.uri, checkpoint_step=checkpoint.step)

    return CheckpointWriter(
        bucket=this.bucket,
        uri=checkpoints_uri(this.run),
        fingerprint=digest,
        keep=this.run.training.save_total_limit,
        on_commit=show,
        processes=this.run.resources.gpus,
    )


def run_file(this: Attempt) -> Path:
    """The run file, written where the processes that this one starts find it."""
    path = this.scratch / "run.json"
    path.write_text(this.run.model_dump_json(by_alias=True, exclude_none=True))
    return path


def usage(loop: LoopResult, *, peak_memory: float) -> Usage:
    """What this attempt took; nothing where the steps had all been taken before."""
    return Usage(
        train_seconds=round(loop.seconds, 1),
        tokens_per_second=round(loop.tokens / loop.seconds, 1) if loop.seconds else 0.0,
        peak_memory_gib=round(peak_memory, 2),
    )
