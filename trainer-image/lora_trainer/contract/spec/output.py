"""Where the adapter is published, in which formats, and how it is signed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lora_trainer.contract.spec.cel import rules
from lora_trainer.contract.spec.names import KeyName, ObjectName
from lora_trainer.contract.spec.uris import BUCKET_URI, stays_in_its_folder
from lora_trainer.contract.wire import WireModel


class SigningKeyRef(WireModel):
    """A private key in a Secret in the namespace of the run."""

    name: ObjectName
    """Name of the Secret."""
    key: KeyName = "private.pem"
    """Key inside the Secret, with an unencrypted Ed25519 private key in PEM form."""


class SigningSpec(WireModel):
    """Signature of the adapter's manifest, which contains the sha256 of every file."""

    key_secret_ref: SigningKeyRef
    """The private key. Only the run's own pods read it."""


ADAPTER = "adapter"
MERGED_16BIT = "merged16bit"
GGUF = "gguf"
"""Folders of an artifact beside the adapter's own files."""


class Export(StrEnum):
    """Other formats that may be published with the adapter."""

    MERGED_16BIT = "Merged16Bit"
    GGUF = "GGUF"


QuantizationMethod = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class GgufSpec(WireModel):
    """GGUF files for llama.cpp and programs that are built on it."""

    quantization_methods: Annotated[
        tuple[QuantizationMethod, ...],
        Field(min_length=1, max_length=5, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ("q8_0",)
    """One file is written for each: f16 (16 bits a weight), q8_0 (8.5), q6_k (6.6), q5_k_m (5.7) or q4_k_m (4.8)."""


def output_folder(uri: str) -> str:
    """The URI of an output without a slash at its end, so that both forms name the same folder."""
    return uri.rstrip("/")


class OutputSpec(WireModel):
    """Where the adapter is published."""

    model_config = ConfigDict(json_schema_extra=rules(stays_in_its_folder("uri")))

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=BUCKET_URI)]
    """Folder in the bucket. The adapter is published to <uri>/<run digest>/ and <uri>/latest.json points to the
    newest."""
    exports: Annotated[
        tuple[Export, ...], Field(max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ()
    """Other formats to publish with the adapter: Merged16Bit (the adapter merged into a 16-bit copy of the base model,
    in the folder merged16bit/) and GGUF (that model as GGUF files, in the folder gguf/). Both need memory and scratch
    for the 16-bit model. Each is verified against the adapter. If one cannot be written or verified, the run ends as
    ExportFailed, with the adapter published."""
    gguf: GgufSpec = GgufSpec()
    """Settings of the export GGUF."""
    signing: SigningSpec | None = None
    """Settings of an Ed25519 signature that is published beside the manifest. Unset: no signature."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Other formats that are published with the adapter, by folder: merged16bit, gguf/q8_0."""
        merged = (MERGED_16BIT,) if Export.MERGED_16BIT in self.exports else ()
        methods = self.gguf.quantization_methods if Export.GGUF in self.exports else ()
        return merged + tuple(f"{GGUF}/{method}" for method in methods)
