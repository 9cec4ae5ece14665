"""Committing an adapter, without training: what is written when, and two publishers of one run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, SIGNATURE, latest_uri
from lora_trainer.contract.manifest import ArtifactManifest, FileEntry
from lora_trainer.contract.outcome import Artifact
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.folder import commit, point_latest
from lora_trainer.publishing.signing import Signer, read_signer
from lora_trainer.storage import Bucket
from obstore.store import MemoryStore

from tests.builders import DIGEST, an_artifact_manifest
from tests.support.keys import private_pem
from tests.support.runs import run_file

RUN = run_file()
URI = f"s3://team-a/adapters/{DIGEST}"


@pytest.fixture
def bucket() -> Bucket:
    store = MemoryStore()
    return Bucket(open_store=lambda _: store)


def adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# Adapter")
    return folder


def assert_whole(bucket: Bucket, folder: Path) -> ArtifactManifest:
    """The manifest in the bucket describes the files in the bucket."""
    found = bucket.read_manifest(URI, ArtifactManifest)
    assert found
    bucket.fetch_files(found.files, URI, folder)
    return found


def test_the_manifest_comes_last_and_latest_points_to_it(bucket: Bucket, tmp_path: Path) -> None:
    def prove(files: tuple[FileEntry, ...]) -> ArtifactManifest:
        assert {file.path for file in files} == {file.path for file in bucket.list(URI)}
        assert not bucket.exists(f"{URI}/{MANIFEST}")
        return an_artifact_manifest(files)

    artifact, _ = commit(bucket, adapter(tmp_path / "a", b"a"), uri=URI, manifest=prove)
    assert assert_whole(bucket, tmp_path / "fetched").verification.files == 2
    assert artifact.digest == hashlib.sha256(bucket.read(f"{URI}/{MANIFEST}")).hexdigest()
    assert artifact.size_bytes == 10
    assert not bucket.exists(latest_uri(RUN))
    point_latest(bucket, RUN, artifact)
    assert Artifact.model_validate_json(bucket.read(latest_uri(RUN))) == artifact


def test_an_adapter_that_is_not_proven_does_not_exist(bucket: Bucket, tmp_path: Path) -> None:
    def refuse(_: tuple[FileEntry, ...]) -> ArtifactManifest:
        raise TrainerError(ExitCode.InternalError, "does not work")

    with pytest.raises(TrainerError, match="does not work"):
        commit(bucket, adapter(tmp_path / "a", b"a"), uri=URI, manifest=refuse)
    assert not bucket.exists(f"{URI}/{MANIFEST}")
    assert not bucket.exists(latest_uri(RUN))


def signer() -> Signer:
    run = run_file(output={"signing": {"keySecretRef": {"name": "signing"}}})
    made = read_signer(run, private_pem(1).decode())
    assert made
    return made


@pytest.mark.parametrize("theirs", [b"ours", b"theirs", None])
def test_a_signature_is_over_the_manifest_that_stays(bucket: Bucket, tmp_path: Path, theirs: bytes | None) -> None:
    def slow(files: tuple[FileEntry, ...]) -> ArtifactManifest:
        if theirs:
            commit(bucket, adapter(tmp_path / "b", theirs), uri=URI, manifest=an_artifact_manifest)
        return an_artifact_manifest(files).model_copy(update={"signing_key": signer().verifier.key_id})

    commit(bucket, adapter(tmp_path / "a", b"ours"), uri=URI, manifest=slow, signer=signer())
    data = bucket.read(f"{URI}/{MANIFEST}")
    assert signer().verifier.accepts(data, bucket.read(f"{URI}/{SIGNATURE}"))
    assert assert_whole(bucket, tmp_path / "fetched").signing_key == signer().verifier.key_id


@pytest.mark.parametrize("theirs", [b"ours", b"theirs"])
def test_two_publishers_leave_one_whole_adapter(bucket: Bucket, tmp_path: Path, theirs: bytes) -> None:
    def slow(files: tuple[FileEntry, ...]) -> ArtifactManifest:
        commit(bucket, adapter(tmp_path / "b", theirs), uri=URI, manifest=an_artifact_manifest)
        return an_artifact_manifest(files)

    artifact, _ = commit(bucket, adapter(tmp_path / "a", b"ours"), uri=URI, manifest=slow)
    assert_whole(bucket, tmp_path / "fetched")
    assert (tmp_path / "fetched/adapter_model.safetensors").read_bytes() == b"ours"
    assert artifact.digest == hashlib.sha256(bucket.read(f"{URI}/{MANIFEST}")).hexdigest()
