"""What every node of an attempt does before its first step: fetch, load, and hand on to its further processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Chosen, PrepareResult
from lora_trainer.contract.run import RunFile, run_digest
from lora_trainer.errors import TrainerError
from lora_trainer.model import add_adapter, load
from lora_trainer.prepared import Prepared, read_prepared
from lora_trainer.training.loop import Attempt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


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


def load_trainable(
    run: RunFile, chosen: Chosen, *, base: Path, prepared: Prepared
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The base model with a fresh adapter, and the tokenizer that batches are padded with."""
    model, tokenizer = load(run, folder=base, dtype=chosen.dtype, loader=chosen.loader)
    tokenizer.pad_token_id, tokenizer.eos_token_id = prepared.pad_token_id, prepared.eos_token_id
    return add_adapter(model, run, kept_layers=chosen.kept_layers), tokenizer


def rank_arguments(this: Attempt, *, base: Path, resume: Path | None, oom_shrinks: int) -> list[str | Path]:
    """Options of `lora_trainer rank` for the processes beside this one; `resume` is the checkpoint to go on from."""
    run_file = this.scratch / "run.json"
    run_file.write_text(this.run.model_dump_json(by_alias=True, exclude_none=True))
    arguments: list[str | Path] = ["--run", run_file, "--scratch", this.scratch, "--base", base]
    arguments += ["--oom-shrinks", str(oom_shrinks)]
    return [*arguments, "--resume", resume] if resume else arguments
