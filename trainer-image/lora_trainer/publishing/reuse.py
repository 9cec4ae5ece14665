"""Reuses the adapter that an identical run has already published, so that nothing is trained.

Compares sizes, not contents, because every adapter was verified before its manifest was written.
"""

from __future__ import annotations

from lora_trainer.contract.layout import MANIFEST, SIGNATURE, artifact_uri, rejected_uri
from lora_trainer.contract.manifest import ArtifactManifest, parse_manifest
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.evaluation.gate import failures, gate_failed
from lora_trainer.publishing.folder import point_latest
from lora_trainer.publishing.signing import Signer
from lora_trainer.storage import Bucket


def reuse(run: RunFile, result: PrepareResult, bucket: Bucket, *, signer: Signer | None) -> PrepareResult | None:
    """`result` with the existing adapter, or None. Raises TrainerError QualityGateFailed where it misses the gate.

    The gate is not part of the run digest, so an adapter that another gate rejected is published now if it passes. An
    adapter without a format of output.exports is trained again.
    """
    published, rejected = artifact_uri(run, result.run_digest), rejected_uri(run, result.run_digest)
    for uri in (published, rejected):
        data = bucket.read_if_there(f"{uri}/{MANIFEST}") or b""
        manifest = parse_manifest(ArtifactManifest, data)
        if manifest is None or not _complete(uri, manifest, bucket):
            continue
        if signer and not signer.verifier.accepts(data, bucket.read_if_there(f"{uri}/{SIGNATURE}") or b""):
            continue
        artifact = manifest.artifact(uri, data)
        found = result.model_copy(update={"artifact": artifact, "evaluation": manifest.evaluation})
        if missed := failures(run.evaluation.gates, manifest.evaluation):
            raise gate_failed(missed, artifact, found)
        if not set(run.output.formats) <= set(manifest.formats):
            continue
        if uri == published:
            return found
        accepted = artifact.model_copy(update={"uri": published})
        _publish(rejected, manifest, published, bucket)
        point_latest(bucket, run, accepted)
        return found.model_copy(update={"artifact": accepted})
    return None


def _complete(uri: str, manifest: ArtifactManifest, bucket: Bucket) -> bool:
    sizes = {file.path: file.size for file in bucket.list(uri)}
    return all(sizes.get(file.path) == file.size for file in manifest.files)


def _publish(rejected: str, manifest: ArtifactManifest, published: str, bucket: Bucket) -> None:
    signature = (SIGNATURE,) if manifest.signing_key else ()
    for name in (*(file.path for file in manifest.files), *signature, MANIFEST):
        bucket.copy(f"{rejected}/{name}", f"{published}/{name}")
