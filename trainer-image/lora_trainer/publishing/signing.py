"""Ed25519 signatures over manifests. A manifest holds the sha256 of every file, so its signature covers them all.

The signature is 64 raw bytes over the manifest's bytes as they are in the bucket, and keys are PEM files as OpenSSL
writes them: `openssl pkeyutl -verify -rawin` checks it too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A public key."""

    key: Ed25519PublicKey

    @property
    def key_id(self) -> str:
        """sha256 of the key in DER form (SubjectPublicKeyInfo), in hex."""
        return hashlib.sha256(self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def accepts(self, manifest: bytes, signature: bytes) -> bool:
        """Whether this key signed exactly these bytes."""
        try:
            self.key.verify(signature, manifest)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A private key."""

    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """The public key that belongs to it."""
        return Verifier(key=self.key.public_key())

    def sign(self, manifest: bytes) -> bytes:
        """The signature, 64 bytes; the same for the same bytes."""
        return self.key.sign(manifest)


def read_signer(run: RunFile, pem: str) -> Signer | None:
    """The signer for output.signing with the key in `pem`, None without signing. Raises ConfigInvalid for a bad key."""
    if run.output.signing is None:
        return None

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        # The exception may quote the key.
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        reference = run.output.signing.key_secret_ref
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"output.signing: key {reference.key!r} of Secret {reference.name!r} is not an unencrypted Ed25519 private"
            " key in PEM form.",
            "Create one with: openssl genpkey -algorithm ed25519 -out private.pem.",
        )
    return Signer(key=key)


def read_verifier(pem: bytes, *, name: str) -> Verifier:
    """The public key in a PEM file that the user calls `name`. Raises ConfigInvalid."""

    try:
        key = load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"{name} is not an Ed25519 public key in PEM form.",
            "Export it with: openssl pkey -in private.pem -pubout -out public.pem.",
        )
    return Verifier(key=key)


def require_signature(verifier: Verifier, manifest: bytes, signature: bytes | None, *, uri: str) -> None:
    """Raise TrainerError SignatureInvalid unless this key signed this manifest."""
    if signature is None:
        raise TrainerError(
            ExitCode.SignatureInvalid,
            f"The adapter at {uri} is not signed.",
            "Publish it with output.signing, or verify it without --public-key.",
        )
    if not verifier.accepts(manifest, signature):
        raise TrainerError(
            ExitCode.SignatureInvalid,
            f"The signature of the adapter at {uri} does not match its manifest and key {verifier.key_id[:16]}: the"
            " manifest or the signature was changed, or another key signed it.",
            "Do not use the adapter. Compare the key's id with signingKey in its manifest.json.",
        )
