"""verify with real parts: it passes a good adapter and refuses one that is damaged, broken or without effect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION, MANIFEST, prepared_uri
from lora_trainer.contract.manifest import ArtifactManifest, SetManifest, Verification
from lora_trainer.contract.outcome import Outcome
from lora_trainer.prepared import EVAL_ROWS
from safetensors.torch import load_file, save_file

from tests.support.fork_server import Kind
from tests.support.keys import public_pem
from tests.support.trainer_process import complete
from tests.trainer.conftest import SIGNING_SEED, Trained

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How a verify process ended."""

    code: int
    last_line: str


@pytest.fixture
def verify(trained: Trained, first_layers: Path, tmp_path: Path) -> Callable[..., Verified]:
    """Runs `python -m lora_trainer verify` on an adapter of the run `trained`."""

    def start(artifact: str, *options: str | Path, base: Path | None = first_layers) -> Verified:
        arguments = ["verify", "--artifact", artifact, "--scratch", tmp_path]
        arguments += [f"--endpoint={trained.small.run.storage.endpoint}", *options]
        arguments += ["--base", base] if base else []
        done = complete(arguments, kind=Kind.PLAIN)
        return Verified(code=done.returncode, last_line=done.stdout.strip().rpartition("\n")[2])

    return start


def changed_copy(trained: Trained, folder: Path, change: Callable[[dict], dict]) -> tuple[str, Path]:
    """A copy of the adapter with other weights, and a manifest that matches it."""
    small, uri = trained.small, f"{trained.small.artifact}-{folder.name}"
    manifest = small.bucket.read_manifest(small.artifact, ArtifactManifest)
    assert manifest
    small.bucket.fetch_files(manifest.files, small.artifact, folder)
    save_file(change(load_file(folder / ADAPTER)), folder / ADAPTER, metadata={"format": "pt"})
    files = small.bucket.upload_files(folder, uri)
    draft = folder.with_suffix(".json")
    draft.write_text(SetManifest(fingerprint=small.digest, files=files).model_dump_json(by_alias=True))
    return uri, draft


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    path = tmp_path / "public.pem"
    path.write_bytes(public_pem(SIGNING_SEED))
    return path


@pytest.fixture
def eval_rows(trained: Trained, tmp_path: Path) -> Path:
    """The rows that were held out of the run `trained`."""
    small, path = trained.small, tmp_path / EVAL_ROWS
    path.write_bytes(small.bucket.read(f"{prepared_uri(small.run)}/{EVAL_ROWS}"))
    return path


def test_anybody_with_the_bucket_and_the_public_key_can_verify_an_adapter(
    trained: Trained, verify: Callable[..., Verified], public_key: Path, eval_rows: Path
) -> None:
    ended = verify(trained.small.artifact, "--public-key", public_key, "--eval-rows", eval_rows, base=None)
    assert ended.code == ExitCode.Succeeded, ended.last_line
    published = trained.small.bucket.read_manifest(trained.small.artifact, ArtifactManifest)
    assert published
    assert Verification.model_validate_json(ended.last_line) == published.verification
    # Without a GPU both processes compute with torch's own kernels: only another compute type makes a difference.
    assert published.verification.loss_difference == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "no-effect",
            lambda tensors: {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in tensors.items()},
            "does not change the logits",
        ),
        ("not-finite", lambda tensors: {n: torch.full_like(t, torch.nan) for n, t in tensors.items()}, "not finite"),
        (
            "measured-otherwise",
            lambda tensors: {n: -4 * t if "lora_B" in n else t for n, t in tensors.items()},
            "while evaluation.json says",
        ),
    ],
)
def test_an_adapter_that_does_not_work_is_refused(
    trained: Trained,
    verify: Callable[..., Verified],
    eval_rows: Path,
    tmp_path: Path,
    name: str,
    change: Callable,
    said: str,
) -> None:
    uri, draft = changed_copy(trained, tmp_path / name, change)
    ended = verify(uri, "--manifest", draft, "--eval-rows", eval_rows)
    assert ended.code == ExitCode.InternalError
    assert said in Outcome.model_validate_json(ended.last_line).message


def test_a_damaged_file_is_named(trained: Trained, verify: Callable[..., Verified], tmp_path: Path) -> None:
    uri, draft = changed_copy(trained, tmp_path / "damaged", lambda tensors: tensors)
    small = trained.small
    data = bytearray(small.bucket.read(f"{uri}/{ADAPTER}"))
    data[-1] ^= 1
    small.bucket.write(f"{uri}/{ADAPTER}", bytes(data))
    ended = verify(uri, "--manifest", draft)
    assert ended.code == ExitCode.StorageUnavailable
    assert f"sha256 of {ADAPTER}" in Outcome.model_validate_json(ended.last_line).message
    assert hashlib.sha256(data).hexdigest() not in draft.read_text()


def signed_copy(trained: Trained, name: str, change: Callable[[bytes], bytes]) -> str:
    """A copy of the signed adapter with another manifest."""
    small, uri = trained.small, f"{trained.small.artifact}-{name}"
    for file in small.bucket.list(small.artifact):
        small.bucket.copy(f"{small.artifact}/{file.path}", f"{uri}/{file.path}")
    small.bucket.write(f"{uri}/{MANIFEST}", change(small.bucket.read(f"{uri}/{MANIFEST}")))
    return uri


def test_a_manifest_that_was_changed_is_refused(
    trained: Trained, verify: Callable[..., Verified], public_key: Path
) -> None:
    uri = signed_copy(trained, "forged", lambda data: data.replace(b'"steps":6', b'"steps":7'))
    ended = verify(uri, "--public-key", public_key)
    assert ended.code == ExitCode.SignatureInvalid
    assert "manifest or the signature was changed" in Outcome.model_validate_json(ended.last_line).message


def test_a_file_that_was_changed_is_refused_though_the_signature_is_good(
    trained: Trained, verify: Callable[..., Verified], public_key: Path
) -> None:
    uri = signed_copy(trained, "swapped", lambda data: data)
    trained.small.bucket.write(f"{uri}/{EVALUATION}", b"{}")
    ended = verify(uri, "--public-key", public_key)
    assert ended.code == ExitCode.StorageUnavailable
    assert f"{EVALUATION} has 2 bytes" in Outcome.model_validate_json(ended.last_line).message


def test_a_key_that_is_not_there_is_named(trained: Trained, verify: Callable[..., Verified]) -> None:
    ended = verify(trained.small.artifact, "--public-key", "nowhere.pem")
    assert ended.code == ExitCode.ConfigInvalid
    assert "nowhere.pem cannot be read" in Outcome.model_validate_json(ended.last_line).message


def test_an_adapter_without_a_manifest_does_not_exist(trained: Trained, verify: Callable[..., Verified]) -> None:
    ended = verify(f"{trained.small.artifact}-nowhere")
    assert ended.code == ExitCode.ConfigInvalid
    assert "no complete adapter" in Outcome.model_validate_json(ended.last_line).message
