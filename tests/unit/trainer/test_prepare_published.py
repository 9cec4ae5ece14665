"""prepare where the adapter of the run is in the bucket already: found, judged again, or made again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, SIGNATURE, artifact_uri, latest_uri, rejected_uri
from lora_trainer.contract.manifest import ArtifactManifest
from lora_trainer.contract.outcome import Artifact, PrepareResult
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.signing import read_signer

from tests.support.keys import private_pem
from tests.support.prepare_world import World
from tests.support.published import publish_adapter
from tests.support.runs import run_file


def test_a_published_adapter_of_the_same_run_is_found(world: World) -> None:
    run = run_file()
    first = world.prepare_run(run)
    manifest = publish_adapter(world.bucket, run, first)
    found = world.prepare_run(run)
    assert found.artifact
    uri = artifact_uri(run, first.run_digest)
    assert (found.artifact.uri, found.artifact.size_bytes) == (uri, len(b"weights"))
    assert found.artifact.digest == hashlib.sha256(world.bucket.read(f"{uri}/manifest.json")).hexdigest()
    assert found.evaluation == manifest.evaluation


def test_an_adapter_with_a_missing_file_is_trained_again(world: World) -> None:
    run = run_file()
    first = world.prepare_run(run)
    publish_adapter(world.bucket, run, first)
    world.bucket.delete(f"{artifact_uri(run, first.run_digest)}/adapter_model.safetensors")
    assert world.prepare_run(run).artifact is None


def test_a_published_adapter_that_misses_the_gate_of_today_fails_the_run(world: World) -> None:
    first = world.prepare()
    manifest = publish_adapter(world.bucket, run_file(), first)
    strict = run_file(evaluation={"gates": [{"metric": "Loss", "max": 0.4}]})
    with pytest.raises(TrainerError, match=r"held-out loss 0\.5000 is above max 0\.4") as ended:
        world.prepare_run(strict)
    assert ended.value.code == ExitCode.QualityGateFailed
    assert isinstance(ended.value.result, PrepareResult)
    assert ended.value.result.evaluation == manifest.evaluation
    assert ended.value.result.artifact
    assert ended.value.result.artifact.uri == artifact_uri(strict, first.run_digest)


def test_a_rejected_adapter_is_not_trained_again_while_it_misses_the_gate(world: World) -> None:
    strict = run_file(evaluation={"gates": [{"metric": "TokenAccuracy", "min": 0.9}]})
    first = world.prepare_run(strict)
    publish_adapter(world.bucket, strict, first, folder_of=rejected_uri)
    with pytest.raises(TrainerError, match=r"token accuracy 0\.8000 is below") as ended:
        world.prepare_run(strict)
    assert ended.value.code == ExitCode.QualityGateFailed
    assert rejected_uri(strict, first.run_digest) in ended.value.message
    assert not world.bucket.exists(latest_uri(strict))


def test_a_rejected_adapter_is_published_by_a_run_with_a_gate_that_it_passes(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"gates": [{"metric": "TokenAccuracy", "min": 0.7}]})
    first = world.prepare_run(run)
    manifest = publish_adapter(world.bucket, run, first, folder_of=rejected_uri)
    found = world.prepare_run(run)
    uri = artifact_uri(run, first.run_digest)
    assert found.artifact
    assert found.artifact.uri == uri
    assert world.bucket.read_manifest(uri, ArtifactManifest) == manifest
    world.bucket.fetch_files(manifest.files, uri, tmp_path / "fetched")
    assert Artifact.model_validate_json(world.bucket.read(latest_uri(run))) == found.artifact
    assert world.prepare_run(run).artifact == found.artifact


def test_an_adapter_without_a_wanted_format_is_made_again(world: World) -> None:
    first = world.prepare()
    publish_adapter(world.bucket, run_file(), first)
    assert world.prepare().artifact
    assert world.prepare(output={"exports": ["Merged16Bit"]}).artifact is None


SIGNING = {"signing": {"keySecretRef": {"name": "signing"}}}


def test_an_adapter_counts_as_signed_only_by_the_runs_own_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_file(output=SIGNING)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, private_pem(1).decode())
    first = world.prepare_run(run)
    publish_adapter(world.bucket, run, first)
    uri = artifact_uri(run, first.run_digest)
    assert world.prepare_run(run).artifact is None, "it is not signed"
    assert world.prepare().artifact, "who wants no signature needs none"
    signer = read_signer(run, private_pem(2).decode())
    assert signer
    world.bucket.write(f"{uri}/{SIGNATURE}", signer.sign(world.bucket.read(f"{uri}/{MANIFEST}")))
    assert world.prepare_run(run).artifact is None, "another key signed it"
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, private_pem(2).decode())
    assert world.prepare_run(run).artifact


def test_a_signing_key_that_is_none_is_told_before_anything_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "not a key")
    with pytest.raises(TrainerError, match=r"output\.signing: key 'private\.pem' of Secret 'signing'"):
        world.prepare(output=SIGNING)
