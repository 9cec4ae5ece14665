"""What is in the bucket when the other formats succeed or fail; the fresh processes' answers are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, SIGNATURE, artifact_uri, latest_uri
from lora_trainer.contract.manifest import ArtifactManifest, Exported, Verification
from lora_trainer.contract.outcome import Artifact, TrainResult
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.publishing import delivery as delivery_module
from lora_trainer.publishing.delivery import Delivery, deliver
from lora_trainer.publishing.signing import read_signer
from lora_trainer.publishing.trained_run import trained_from
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.loop import Attempt
from lora_trainer.training.nodes import Nodes
from lora_trainer.training.stopping import StopRequest
from obstore.store import MemoryStore

from tests.builders import an_evaluation, prepare_result, train_result
from tests.support.keys import private_pem
from tests.support.runs import run_file

OUTPUT = {"exports": ["Merged16Bit"], "signing": {"keySecretRef": {"name": "signing"}}}
RUN = run_file(output=OUTPUT)
URI = artifact_uri(RUN, prepare_result().run_digest)


@pytest.fixture
def bucket() -> Bucket:
    store = MemoryStore()
    return Bucket(open_store=lambda _: store)


def a_delivery(bucket: Bucket, scratch: Path, *, run: RunFile = RUN) -> Delivery:
    folder = scratch / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")

    return Delivery(
        this=Attempt(
            run=run,
            bucket=bucket,
            progress=ProgressServer(port=0),
            stop=cast(StopRequest, None),  # is not looked at any more
            nodes=cast(Nodes, None),  # neither
            scratch=scratch,
            number=1,
            oom_shrinks=0,
        ),
        prepared=prepare_result(),
        base=scratch / "base",
        folder=folder,
        steps=6,
        best_step=None,
        evaluation=EvaluationFile(figures=an_evaluation(), probe="a question"),
        usage=train_result().usage,
        signer=read_signer(run, private_pem(1).decode()),
    )


def answers(monkeypatch: pytest.MonkeyPatch, *, fail: bool = False) -> None:
    """Answer as the fresh processes do."""

    def run_in_new_process(stage: str, options: dict[str, Any], *, result: type) -> object:
        del result
        if stage == "verify":
            return Verification(files=1, max_logit_difference=1.0, generated_tokens=8)
        if fail:
            raise TrainerError(ExitCode.ExportFailed, "The pod's scratch folder is full.", "Ask for more.")
        merged = options["folder"] / "merged16bit"
        merged.mkdir(parents=True)
        (merged / "model.safetensors").write_bytes(b"merged weights")
        return Exported(formats=tuple(options["formats"].split(",")), merged_drift=0.1)

    monkeypatch.setattr(delivery_module, "run_in_new_process", run_in_new_process)


def test_the_manifest_and_its_signature_cover_what_was_exported(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch)
    delivery = a_delivery(bucket, tmp_path)
    artifact = deliver(delivery).artifact
    data = bucket.read(f"{URI}/{MANIFEST}")
    manifest = ArtifactManifest.model_validate_json(data)
    assert [file.path for file in manifest.files] == ["adapter_model.safetensors", "merged16bit/model.safetensors"]
    bucket.fetch_files(manifest.files, URI, tmp_path / "fetched")
    assert artifact == manifest.artifact(URI, data)
    assert artifact.formats == ("adapter", "merged16bit")
    assert delivery.signer
    assert delivery.signer.verifier.accepts(data, bucket.read(f"{URI}/{SIGNATURE}"))
    assert Artifact.model_validate_json(bucket.read(latest_uri(RUN))) == artifact


def test_the_adapter_is_published_where_an_export_fails(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, fail=True)
    with pytest.raises(TrainerError, match="scratch folder is full") as ended:
        deliver(a_delivery(bucket, tmp_path))
    assert ended.value.code == ExitCode.ExportFailed
    assert isinstance(ended.value.result, TrainResult)
    manifest = bucket.read_manifest(URI, ArtifactManifest)
    assert manifest
    assert manifest.formats == ended.value.result.artifact.formats == ("adapter",)
    assert bucket.exists(latest_uri(RUN))


@pytest.mark.parametrize("gate", [1.0, 0.0], ids=["published", "rejected"])
def test_the_commit_of_a_hub_model_is_remembered_for_the_run(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: float
) -> None:
    answers(monkeypatch)
    strict = {"gates": [{"metric": "Loss", "max": gate}]}
    run = run_file(model={"name": "owner/tiny"}, output=OUTPUT, evaluation=strict)
    assert trained_from(run, bucket) is None
    if gate:
        deliver(a_delivery(bucket, tmp_path, run=run))
    else:
        with pytest.raises(TrainerError) as ended:
            deliver(a_delivery(bucket, tmp_path, run=run))
        assert ended.value.code is ExitCode.QualityGateFailed
    assert trained_from(run, bucket) == prepare_result().model.revision
