"""Manifests: the list of a set's files with size and sha256, written after all of them. A set without one does not
exist."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from pydantic import ValidationError

from lora_trainer.contract.outcome import Artifact, Evaluation, ModelFigures
from lora_trainer.contract.spec.dataset import ChatTemplateKwargs
from lora_trainer.contract.spec.output import ADAPTER
from lora_trainer.contract.wire import WireModel

M = TypeVar("M", bound=WireModel)


class FileEntry(WireModel):
    """One file of a set."""

    path: str
    """Path below the set's folder."""
    size: int
    """Bytes."""
    sha256: str


class SetManifest(WireModel):
    """Manifest of a prepared set or a checkpoint."""

    fingerprint: str
    """Run digest: a set with another fingerprint belongs to another run and is refused."""
    step: int | None = None
    """Optimizer step of a checkpoint."""
    files: tuple[FileEntry, ...]


class Verification(WireModel):
    """Results of loading the published adapter in a new process."""

    files: int
    """Files whose sha256 was compared after download."""
    max_logit_difference: float
    """Largest absolute difference between base and adapter logits on a held-out prompt."""
    generated_tokens: int
    """Tokens generated with the adapter."""
    loss_difference: float | None = None
    """How far the loss on the first held-out rows (nats per scored token) is from that in evaluation.json; None where
    the rows were not at hand, and for method GRPO, which has no losses."""


class Exported(WireModel):
    """Other formats of the adapter, each verified to be the same model."""

    formats: tuple[str, ...]
    """merged16bit, gguf/q8_0, ...: folders of the artifact, and the quantisation of a GGUF file."""
    merged_drift: float
    """How far the merged model's logits are from those of base and adapter on a held-out prompt, as a share of how far
    the adapter moves them."""


class ArtifactManifest(WireModel):
    """Manifest of a published adapter."""

    run_digest: str
    base_model: str
    """The base model as the user named it."""
    model: ModelFigures
    data_digest: str
    steps: int
    evaluation: Evaluation
    verification: Verification
    versions: dict[str, str]
    """Versions of the libraries that trained it."""
    chat_template_kwargs: ChatTemplateKwargs = None
    """Variables of the chat template that it was trained with: a server passes them as chat_template_kwargs."""
    signing_key: str | None = None
    """Id of the key that signed this manifest: sha256 of the public key in DER form."""
    exported: Exported | None = None
    """Other formats that are published with the adapter."""
    files: tuple[FileEntry, ...]

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats in the artifact."""
        return (ADAPTER, *(self.exported.formats if self.exported else ()))

    def artifact(self, uri: str, data: bytes) -> Artifact:
        """The artifact for status, once the manifest's bytes `data` are at `uri`."""
        return Artifact(
            uri=uri,
            digest=hashlib.sha256(data).hexdigest(),
            size_bytes=sum(file.size for file in self.files),
            formats=self.formats,
        )


class TrainedRun(WireModel):
    """Record of the commit that a run was trained from, by which the same run finds its adapter again when the branch
    has moved on the hub."""

    base_model: str
    """The base model as the user named it."""
    asked_revision: str | None = None
    """model.revision as the user set it."""
    revision: str
    """Commit that it meant then."""
    run_digest: str
    """Name of the adapter."""


def parse_manifest(model: type[M], data: bytes) -> M | None:
    """The manifest in `data`, or None when it is incomplete or of another kind."""
    try:
        return model.model_validate_json(data)
    except ValidationError:
        return None
