"""Prepares every node of an attempt for its first step: fetches, loads, and starts further processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lora_trainer.base_model.resolve import base_folder
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Chosen, PrepareResult
from lora_trainer.contract.progress import Phase
from lora_trainer.contract.run import RunFile, run_digest
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.errors import TrainerError
from lora_trainer.libraries import compiled_folder, environment, go_offline, import_libraries
from lora_trainer.micro_batch import shrink
from lora_trainer.model import accelerator_name, add_adapter, compute_dtype, load, require_accelerator
from lora_trainer.packing import sequence_tokens
from lora_trainer.prepared import Prepared, read_prepared
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.compile_cache import CompileCache, run_fingerprint
from lora_trainer.training.device_errors import explained
from lora_trainer.training.loop import Attempt
from lora_trainer.training.nodes import Nodes, Place
from lora_trainer.training.ranks import Ranks, World
from lora_trainer.training.stopping import StopRequest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


def begin(
    run: RunFile,
    *,
    bucket: Bucket,
    progress: ProgressServer,
    scratch: Path,
    place: Place,
    number: int,
    oom_shrinks: int,
    leave: Callable[[TrainerError], NoReturn],
) -> Attempt:
    """Set up this process for an attempt. Raises GpuUnhealthy.

    `leave` ends the process at once, and is called from another thread.
    """
    stop = StopRequest(leave=lambda: leave(interrupted(place, progress)))
    nodes = Nodes(place, attempt=f"{run.identity.uid}/{number}", stop=stop, leave=leave)
    os.environ.update(environment(kind=run.accelerator.kind, scratch=scratch, ranks=run.parallelism.gpus))
    require_accelerator(run.accelerator.kind, count=run.parallelism.gpus)
    return Attempt(
        run=run,
        bucket=bucket,
        progress=progress,
        stop=stop,
        nodes=nodes,
        scratch=scratch,
        number=number,
        oom_shrinks=oom_shrinks,
    )


def fetch_prepared(this: Attempt) -> tuple[Attempt, Prepared]:
    """Fetch the prepared set and compare it with its manifest. Returns the attempt at the run as it was prepared, too.
    Raises TrainerError."""
    uri = prepared_uri(this.run)
    found = this.bucket.read_manifest(uri, SetManifest)
    remedy = "Apply the LoraFineTune under a new name, and keep a run's work folder until the run is done."
    if found is None:
        raise TrainerError(ExitCode.StorageUnavailable, f"There is no complete prepared set at {uri}.", remedy)
    this.bucket.fetch_files(found.files, uri, this.prepared)
    prepared = read_prepared(this.prepared)
    if prepared.result.run_digest != found.fingerprint:
        raise TrainerError(ExitCode.StorageUnavailable, f"The prepared set at {uri} mixes two runs.", remedy)
    return replace(this, run=as_prepared(this.run, prepared.result)), prepared


def as_prepared(run: RunFile, prepared: PrepareResult) -> RunFile:
    """The run with what prepare decided. Raises ConfigInvalid where the run file has changed since prepare read it."""
    if run.model.quantization is Quantization.AUTO:
        run = run.quantized(prepared.chosen.quantization)
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
            "Apply the LoraFineTune under a new name.",
        )
    return run


def fetch_base(this: Attempt, prepared: PrepareResult) -> Path:
    """The base model's folder. Raises TrainerError. From here on the process is offline."""
    this.progress.update(phase=Phase.LOADING, total_steps=prepared.chosen.max_steps)
    base = base_folder(this.run, revision=prepared.model.revision, bucket=this.bucket, scratch=this.scratch / "base")
    go_offline()
    return base


def while_importing(this: Attempt, fetch: Callable[[], T]) -> T:
    """Run `fetch` in another thread while this one imports the libraries, and return its result.

    Where further processes start after `fetch`, this one imports later, at the same time as they do."""
    if this.run.parallelism.gpus > 1:
        return fetch()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch") as pool:
        fetched = pool.submit(fetch)
        import_libraries(scratch=this.scratch, method=this.run.training.method)
        return fetched.result()


def chosen_here(run: RunFile, prepared: PrepareResult, *, oom_shrinks: int) -> Chosen:
    """The choices of prepare, adapted to this attempt and this machine. Raises DoesNotFit."""
    return compute_dtype(run, shrink(prepared.chosen, oom_shrinks))


def compile_cache(this: Attempt, chosen: Chosen, *, base: Path) -> CompileCache:
    """What earlier runs of the same shape compiled: nothing is fetched yet."""
    accelerator = accelerator_name(this.run.accelerator.kind)
    fingerprint = run_fingerprint(this.run, chosen, base=base, accelerator=accelerator)
    compiled = compiled_folder(this.scratch)
    first = this.nodes.place.node == 0
    return CompileCache(this.run, bucket=this.bucket, fingerprint=fingerprint, folder=compiled, marks=first)


def load_trainable(
    run: RunFile, chosen: Chosen, *, base: Path, prepared: Prepared, scratch: Path, progress: ProgressServer
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The base model with a fresh adapter, and the tokenizer that batches are padded with. Raises TrainerError."""
    import_libraries(scratch=scratch, method=run.training.method)
    with explained(run, chosen, progress):
        longest = sequence_tokens(run, chosen)
        model, tokenizer = load(run, folder=base, dtype=chosen.dtype, loader=chosen.loader, sequence_tokens=longest)
        tokenizer.pad_token_id, tokenizer.eos_token_id = prepared.pad_token_id, prepared.eos_token_id
        return add_adapter(model, run, kept_layers=chosen.kept_layers), tokenizer


def further_ranks(this: Attempt, *, base: Path, resume: Path | None, port: int) -> Ranks:
    """The processes beside this one on its node; all of the attempt meet at the first node's `port`.

    `resume` is the checkpoint to resume from.
    """
    run_file = this.scratch / "run.json"
    run_file.write_text(this.run.model_dump_json(by_alias=True, exclude_none=True))
    arguments: list[str | Path] = ["--run", run_file, "--scratch", this.scratch, "--base", base]
    arguments += ["--oom-shrinks", str(this.oom_shrinks)]
    place = this.nodes.place
    return Ranks(
        World(per_node=this.run.parallelism.gpus, nodes=place.nodes, node=place.node, host=place.host, port=port),
        arguments=[*arguments, "--resume", resume] if resume else arguments,
        scratch=this.scratch,
        leave=this.nodes.leave,
    )


def interrupted(place: Place, progress: ProgressServer) -> TrainerError:
    """The ending of a pod that was asked to stop."""
    now = progress.progress
    if place.node:
        message = f"The pod of node {place.node} of {place.nodes} was asked to stop; all nodes resume together later."
    else:
        kept = f"; the next attempt resumes from step {now.checkpoint_step}" if now.checkpoint else "; no step was lost"
        message = f"Stopped on request while {now.phase} at step {now.step}{kept}."
    return TrainerError(ExitCode.Interrupted, message)
