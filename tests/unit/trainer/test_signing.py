"""Signatures: what is accepted, what is refused, and what is said of keys that are none."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.signing import Signer, read_signer, read_verifier, require_signature

from tests.support.keys import private_pem, public_pem
from tests.support.runs import run_file

MANIFEST = b'{"files":[]}'
URI = "s3://team-a/adapters/abc"


def signed_run() -> RunFile:
    return run_file(output={"signing": {"keySecretRef": {"name": "signing"}}})


def signer(seed: int = 1) -> Signer:
    made = read_signer(signed_run(), private_pem(seed).decode())
    assert made
    return made


def test_a_signature_is_accepted_by_its_public_key() -> None:
    verifier = read_verifier(public_pem(1), name="public.pem")
    signature = signer().sign(MANIFEST)
    require_signature(verifier, MANIFEST, signature, uri=URI)
    assert len(signature) == 64
    assert signer().sign(MANIFEST) == signature
    assert signer().verifier.key_id == verifier.key_id


@pytest.mark.parametrize(
    ("manifest", "signature", "said"),
    [
        (MANIFEST + b" ", signer().sign(MANIFEST), "manifest or the signature was changed"),
        (MANIFEST, signer().sign(MANIFEST)[:-1] + b"x", "manifest or the signature was changed"),
        (MANIFEST, signer().sign(MANIFEST)[:-1], "manifest or the signature was changed"),
        (MANIFEST, signer(2).sign(MANIFEST), "or another key signed it"),
        (MANIFEST, b"", "does not match its manifest and key"),
        (MANIFEST, None, "is not signed"),
    ],
    ids=["manifest", "signature", "torn", "another key", "empty", "none"],
)
def test_anything_else_is_refused(manifest: bytes, signature: bytes | None, said: str) -> None:
    with pytest.raises(TrainerError, match=said) as ended:
        require_signature(read_verifier(public_pem(1), name="public.pem"), manifest, signature, uri=URI)
    assert ended.value.code == ExitCode.SignatureInvalid
    assert URI in ended.value.message


def rsa_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("pem", ["", "my secret phrase", public_pem(1).decode(), rsa_pem()])
def test_a_key_that_is_none_is_named_and_never_quoted(pem: str) -> None:
    with pytest.raises(TrainerError, match="of Secret 'signing' is not an unencrypted Ed25519") as e:
        read_signer(signed_run(), pem)
    assert e.value.code == ExitCode.ConfigInvalid
    assert not pem or pem not in e.value.message
    assert e.value.__context__ is None or "phrase" not in str(e.value.__context__)


def test_without_output_signing_no_key_is_looked_at() -> None:
    assert read_signer(run_file(), "not a key") is None


def test_a_public_key_that_is_none_is_named() -> None:
    with pytest.raises(TrainerError, match=r"The file key\.pem is not an Ed25519 public key"):
        read_verifier(private_pem(1), name="The file key.pem")
