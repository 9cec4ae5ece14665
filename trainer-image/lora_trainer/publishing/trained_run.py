"""Remembers which commit of a hub's model a run was trained from, beside the adapters.

A cluster that is restored without status prepares its finished runs again. The record keeps them from being trained
again only because a branch has moved on the hub since.
"""

from __future__ import annotations

from lora_trainer.contract.layout import trained_run_uri
from lora_trainer.contract.manifest import TrainedRun, parse_manifest
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.storage import Bucket


def remember(run: RunFile, result: PrepareResult, bucket: Bucket) -> None:
    """Write the record of a run whose adapter is in the bucket. Models in folders have no branches that move."""
    if not run.model.on_hub:
        return
    record = TrainedRun(
        base_model=run.model.address,
        asked_revision=run.model.revision,
        revision=result.model.revision,
        run_digest=result.run_digest,
    )
    bucket.write(trained_run_uri(run), record.model_dump_json(by_alias=True, exclude_none=True).encode())


def trained_from(run: RunFile, bucket: Bucket) -> str | None:
    """The commit that this run was trained from, or None where it was not, or asked for another model then."""
    record = parse_manifest(TrainedRun, bucket.read_if_there(trained_run_uri(run)) or b"")
    asked = (run.model.address, run.model.revision)
    return record.revision if record and (record.base_model, record.asked_revision) == asked else None
