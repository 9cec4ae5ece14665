"""Publishes an adapter from its local folder: upload, verify, gate, manifest, other formats.

This process decides and uploads; verification runs in new processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_trainer.contract.layout import artifact_uri, rejected_uri
from lora_trainer.contract.manifest import ArtifactManifest, Exported, FileEntry, SetManifest, Verification
from lora_trainer.contract.outcome import PrepareResult, TrainResult, Usage
from lora_trainer.contract.progress import Phase
from lora_trainer.errors import TrainerError
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.evaluation.gate import failures, gate_failed
from lora_trainer.libraries import versions
from lora_trainer.prepared import EVAL_ROWS
from lora_trainer.publishing.folder import commit, extend, point_latest
from lora_trainer.publishing.new_process import run_in_new_process
from lora_trainer.publishing.signing import Signer
from lora_trainer.publishing.trained_run import remember
from lora_trainer.training.loop import Attempt


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """An adapter on its way to the bucket."""

    this: Attempt
    prepared: PrepareResult
    base: Path
    """Folder of the base model."""
    folder: Path
    """Folder of the adapter."""
    steps: int
    """Optimizer steps that the adapter has seen."""
    best_step: int | None
    """The same, where the best adapter was sought."""
    evaluation: EvaluationFile
    usage: Usage
    signer: Signer | None


def deliver(delivery: Delivery) -> TrainResult:
    """Publish the adapter, or reject it.

    Raises TrainerError; QualityGateFailed and ExportFailed with a result, as the adapter is in the bucket then.
    """
    this, signer = delivery.this, delivery.signer
    run, bucket = this.run, this.bucket
    missed = failures(run.evaluation.gates, delivery.evaluation.figures)
    uri = (rejected_uri if missed else artifact_uri)(run, delivery.prepared.run_digest)

    def prove(files: tuple[FileEntry, ...]) -> ArtifactManifest:
        this.progress.update(phase=Phase.VERIFYING)
        return describe(delivery, files=files, verification=verify_elsewhere(delivery, uri=uri, files=files))

    artifact, published = commit(bucket, delivery.folder, uri=uri, manifest=prove, signer=signer)
    result = TrainResult(
        artifact=artifact, evaluation=published.evaluation, usage=delivery.usage, best_step=delivery.best_step
    )
    remember(run, delivery.prepared, bucket)
    if missed:
        raise gate_failed(missed, artifact, result)
    point_latest(bucket, run, artifact)
    if not run.output.formats:
        return result
    this.progress.update(phase=Phase.EXPORTING)
    try:
        exports, exported = export_elsewhere(delivery)
    except TrainerError as error:
        message = f"{error.message} The adapter itself is published at {uri}."
        raise TrainerError(error.code, message, error.remedy, result=result) from None
    artifact = extend(bucket, exports, uri=uri, manifest=published, exported=exported, signer=signer)
    point_latest(bucket, run, artifact)
    return result.model_copy(update={"artifact": artifact})


def verify_elsewhere(delivery: Delivery, *, uri: str, files: tuple[FileEntry, ...]) -> Verification:
    """Verify the files uploaded to `uri`. Raises TrainerError."""
    scratch, storage = delivery.this.scratch, delivery.this.run.storage
    draft = SetManifest(fingerprint=delivery.prepared.run_digest, files=files)
    path = scratch / "manifest.json"
    path.write_text(draft.model_dump_json(by_alias=True, exclude_none=True))
    options = {"artifact": uri, "manifest": path, "base": delivery.base, "scratch": scratch}
    options |= {"eval-rows": delivery.this.prepared / EVAL_ROWS}
    options |= {"endpoint": storage.endpoint, "region": storage.region}
    return run_in_new_process("verify", options, result=Verification)


def export_elsewhere(delivery: Delivery) -> tuple[Path, Exported]:
    """Write and verify the formats of output.exports, and return their folder. Raises TrainerError."""
    folder, formats = delivery.this.scratch / "exports", ",".join(delivery.this.run.output.formats)
    options = {"adapter": delivery.folder, "base": delivery.base, "folder": folder, "formats": formats}
    return folder, run_in_new_process("export", options, result=Exported)


def describe(delivery: Delivery, *, files: tuple[FileEntry, ...], verification: Verification) -> ArtifactManifest:
    """The manifest of a verified adapter."""
    prepared, signer = delivery.prepared, delivery.signer
    return ArtifactManifest(
        run_digest=prepared.run_digest,
        base_model=delivery.this.run.model.address,
        model=prepared.model,
        data_digest=prepared.dataset.digest,
        steps=delivery.steps,
        evaluation=delivery.evaluation.figures,
        verification=verification,
        versions=versions(),
        chat_template_kwargs=delivery.this.run.dataset.chat_template_kwargs,
        signing_key=signer.verifier.key_id if signer else None,
        files=files,
    )
