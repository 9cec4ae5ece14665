"""The published adapter: a PEFT folder that transformers, PEFT and vLLM load as it is, with its model card and figures.

Builds the folder and writes it to the bucket, manifest last. No file in it holds a time or a place, so that two
publishers of the same run write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.layout import (
    EVALUATION,
    LOSS_CURVE,
    MANIFEST,
    MODEL_CARD,
    RUN_SHAPE,
    SIGNATURE,
    TRAINING_LOG,
    latest_uri,
)
from lora_trainer.contract.manifest import ArtifactManifest, Exported, FileEntry
from lora_trainer.contract.outcome import Artifact, PrepareResult
from lora_trainer.contract.run import RunFile, run_shape
from lora_trainer.data.named_templates import template_source
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.libraries import versions
from lora_trainer.prepared import Prepared
from lora_trainer.publishing.curves import write_loss_curve
from lora_trainer.publishing.model_card import model_card
from lora_trainer.publishing.signing import Signer
from lora_trainer.redaction import redact
from lora_trainer.storage import Bucket

if TYPE_CHECKING:
    from peft import PeftModel

    from lora_trainer.training.loop import LoopResult

LOG_FIELDS = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "grad_norm",
    "learning_rate",
    "rewards/accuracies",
    "rewards/margins",
    "reward",
    "reward_std",
    "kl",
    "completions/mean_length",
)


def write_folder(
    folder: Path,
    *,
    run: RunFile,
    prepared: Prepared,
    model: PeftModel,
    base: Path,
    loop: LoopResult,
    evaluation: EvaluationFile,
    signing_key: str | None,
) -> None:
    """Write everything but the manifest."""
    result, template = prepared.result, template_source(run.dataset.chat_template)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _write_adapter_config(folder / "adapter_config.json", run=run, prepared=result)
    write_tokenizer(folder, base=base, chat_template=template, end=prepared.eos_token_id)
    (folder / EVALUATION).write_text(redact(evaluation.model_dump_json(by_alias=True, indent=2)) + "\n")
    steps = ({name: entry[name] for name in LOG_FIELDS if name in entry} for entry in loop.history if "loss" in entry)
    (folder / TRAINING_LOG).write_text("".join(json.dumps(step) + "\n" for step in steps))
    write_loss_curve(folder / LOSS_CURVE, history=loop.history, figures=evaluation.figures, method=run.training.method)
    shape = run_shape(
        run,
        data_digest=result.dataset.digest,
        model_revision=result.model.revision,
        code_digest=result.code_digest,
    )
    (folder / RUN_SHAPE).write_bytes(shape)
    card = model_card(
        run, prepared=result, steps=loop.step, evaluation=evaluation, versions=versions(), signing_key=signing_key
    )
    (folder / MODEL_CARD).write_text(redact(card))


def _write_adapter_config(path: Path, *, run: RunFile, prepared: PrepareResult) -> None:
    """Name the base as the user did, not the folder it was loaded from, and put sets into a fixed order."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = run.model.address
    if run.model.on_hub:
        config["revision"] = prepared.model.revision
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_tokenizer(folder: Path, *, base: Path, chat_template: str | None, end: int) -> None:
    """The base model's own tokenizer: the one in memory has been adapted to training.

    With another chat template its end token is the one that ends an answer there, so that servers stop at it.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.save_pretrained(folder)


def commit(
    bucket: Bucket,
    folder: Path,
    *,
    uri: str,
    manifest: Callable[[tuple[FileEntry, ...]], ArtifactManifest],
    signer: Signer | None = None,
) -> tuple[Artifact, ArtifactManifest]:
    """Upload the folder to `uri`, let `manifest` verify and describe it, sign the manifest, and write it last.

    Where another publisher of the same run was faster and its files differ, this one's files replace them. All of them
    are written after all of the other's. A manifest of another publisher is never signed.
    """
    described = manifest(bucket.upload_files(folder, uri))
    data = encode(described)
    if signer:
        bucket.write(f"{uri}/{SIGNATURE}", signer.sign(data))
    if not bucket.write(f"{uri}/{MANIFEST}", data, if_absent=True):
        present = bucket.read_manifest(uri, ArtifactManifest)
        if present is not None and present.files == described.files and signer is None:
            described, data = present, encode(present)
        else:
            bucket.upload_files(folder, uri)
            bucket.write(f"{uri}/{MANIFEST}", data)
    return described.artifact(uri, data), described


def extend(
    bucket: Bucket, folder: Path, *, uri: str, manifest: ArtifactManifest, exported: Exported, signer: Signer | None
) -> Artifact:
    """Upload what was exported to `folder` beside the adapter at `uri`, and write a manifest that names it all."""
    entries = bucket.upload_files(folder, uri)
    files = tuple(sorted((*manifest.files, *entries), key=lambda file: file.path))
    extended = manifest.model_copy(update={"files": files, "exported": exported})
    data = encode(extended)
    if signer:
        bucket.write(f"{uri}/{SIGNATURE}", signer.sign(data))
    bucket.write(f"{uri}/{MANIFEST}", data)
    return extended.artifact(uri, data)


def point_latest(bucket: Bucket, run: RunFile, artifact: Artifact) -> None:
    """Point latest.json at an adapter."""
    bucket.write(latest_uri(run), artifact.model_dump_json(by_alias=True).encode())


def encode(manifest: ArtifactManifest) -> bytes:
    """The manifest's bytes in the bucket, which the artifact's digest is taken of."""
    return manifest.model_dump_json(by_alias=True, exclude_none=True).encode()
