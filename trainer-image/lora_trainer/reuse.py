"""The adapter of this very run, where the bucket has one already: it is used, and nothing is trained.

Compares sizes, not contents: every adapter was verified before its manifest was written.
"""

from __future__ import annotations

import hashlib

from lora_trainer.contract.layout import MANIFEST, artifact_uri, rejected_uri
from lora_trainer.contract.manifest import ArtifactManifest, parse_manifest
from lora_trainer.contract.outcome import Artifact, PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.gate import failures, gate_failed
from lora_trainer.publish import point_latest
from lora_trainer.storage import Bucket


def reuse(run: RunFile, result: PrepareResult, bucket: Bucket) -> PrepareResult | None:
    """`result` with the adapter that is there, or None. Raises TrainerError QualityGateFailed where it misses the gate.

    The gate is no part of the run digest. So an adapter that another gate rejected is published now if it passes.
    """
    published, rejected = artifact_uri(run, result.run_digest), rejected_uri(run, result.run_digest)
    for uri in (published, rejected):
        data = _manifest(uri, bucket)
        manifest = parse_manifest(ArtifactManifest, data)
        if manifest is None or not _complete(uri, manifest, bucket):
            continue
        artifact = Artifact(uri=uri, digest=hashlib.sha256(data).hexdigest(), size_bytes=manifest.size_bytes)
        found = result.model_copy(update={"artifact": artifact, "evaluation": manifest.evaluation})
        if missed := failures(run.evaluation.gate, manifest.evaluation):
            raise gate_failed(missed, artifact, found)
        if uri == published:
            return found
        accepted = artifact.model_copy(update={"uri": published})
        _publish(rejected, manifest, data, accepted, bucket)
        point_latest(bucket, run, accepted)
        return found.model_copy(update={"artifact": accepted})
    return None


def _manifest(uri: str, bucket: Bucket) -> bytes:
    try:
        return bucket.read(f"{uri}/{MANIFEST}")
    except FileNotFoundError:
        return b""


def _complete(uri: str, manifest: ArtifactManifest, bucket: Bucket) -> bool:
    sizes = {file.path: file.size for file in bucket.list(uri)}
    return all(sizes.get(file.path) == file.size for file in manifest.files)


def _publish(rejected: str, manifest: ArtifactManifest, data: bytes, accepted: Artifact, bucket: Bucket) -> None:
    for file in manifest.files:
        bucket.copy(f"{rejected}/{file.path}", f"{accepted.uri}/{file.path}")
    bucket.write(f"{accepted.uri}/{MANIFEST}", data)
