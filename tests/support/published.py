"""A published adapter as reusing one looks at it: whole and described, and never trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_trainer.contract.layout import artifact_uri
from lora_trainer.contract.manifest import ArtifactManifest, FileEntry, Verification
from lora_trainer.contract.outcome import Evaluation, PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.storage import Bucket


def publish_adapter(
    bucket: Bucket, run: RunFile, result: PrepareResult, *, folder_of: Callable[[RunFile, str], str] = artifact_uri
) -> ArtifactManifest:
    """Publish the adapter that training would have made of the prepared run."""
    figures = Evaluation(rows=8, base_loss=2.5, loss=0.5, base_token_accuracy=0.5, token_accuracy=0.8)

    def manifest(files: tuple[FileEntry, ...]) -> ArtifactManifest:
        return ArtifactManifest(
            run_digest=result.run_digest,
            base_model=run.model.address,
            model=result.model,
            data_digest=result.dataset.digest,
            steps=4,
            evaluation=figures,
            verification=Verification(files=1, max_logit_difference=1.0, generated_tokens=8),
            versions={},
            files=files,
        )

    with TemporaryDirectory() as folder:
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"weights")
        data = bucket.publish_set(Path(folder), folder_of(run, result.run_digest), manifest=manifest)
    return ArtifactManifest.model_validate_json(data)
