"""A real run whose adapter misses its gate: kept whole under rejected/, never published, published by a looser gate."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import artifact_uri, latest_uri, rejected_uri
from lora_trainer.contract.manifest import ArtifactManifest
from lora_trainer.contract.outcome import Artifact, TrainResult
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.evaluation import GateMetric, GateSpec
from lora_trainer.errors import TrainerError
from lora_trainer.prepare import prepare
from lora_trainer.telemetry import ProgressServer

from tests.ports import free_port
from tests.support.attempts import Attempt, Ended
from tests.support.runs import BUCKET
from tests.trainer.conftest import Trained

PERFECT = GateSpec(metric=GateMetric.TOKEN_ACCURACY, minimum=1)
LOOSE = GateSpec(metric=GateMetric.IMPROVEMENT, minimum=0.001)


def gated(run: RunFile, *gates: GateSpec) -> RunFile:
    """The run with gates and an output folder of its own. Neither changes its digest, nor where it resumes from."""
    output = run.output.model_copy(update={"uri": f"s3://{BUCKET}/adapters/gated"})
    evaluation = run.evaluation.model_copy(update={"gates": gates})
    return run.model_copy(update={"output": output, "evaluation": evaluation})


@pytest.fixture(scope="module")
def rejected(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The trained run once more, from its last checkpoint, with a gate that nothing passes."""
    run = gated(trained.small.run, PERFECT)
    with Attempt(run, folder=tmp_path_factory.mktemp("gate") / "attempt", port=free_port()) as attempt:
        return attempt.wait()


def prepared_again(trained: Trained, run: RunFile, folder: Path) -> Artifact | None:
    with ProgressServer(port=0) as progress:
        return prepare(run, bucket=trained.small.bucket, progress=progress, scratch=folder).artifact


def test_the_run_fails_with_the_figures_and_nothing_is_lost(trained: Trained, rejected: Ended, tmp_path: Path) -> None:
    small, run = trained.small, gated(trained.small.run)
    assert rejected.code == ExitCode.QualityGateFailed, rejected.log
    assert rejected.outcome
    result = rejected.outcome.result
    assert isinstance(result, TrainResult)
    assert f"token accuracy {result.evaluation.token_accuracy:.4f} is below min 1" in (rejected.outcome.message)
    assert result.artifact.uri == rejected_uri(run, small.digest)
    manifest = small.bucket.read_manifest(result.artifact.uri, ArtifactManifest)
    assert manifest
    small.bucket.fetch_files(manifest.files, result.artifact.uri, tmp_path)
    assert manifest.verification.max_logit_difference > 0
    assert not small.bucket.list(artifact_uri(run, small.digest))
    assert not small.bucket.exists(latest_uri(run))


def test_the_same_gate_is_told_at_once_and_a_looser_one_publishes(
    trained: Trained, rejected: Ended, tmp_path: Path
) -> None:
    assert rejected.code == ExitCode.QualityGateFailed
    small, run = trained.small, gated(trained.small.run, LOOSE)
    with pytest.raises(TrainerError, match="token accuracy") as again:
        prepared_again(trained, gated(run, PERFECT), tmp_path)
    assert again.value.code == ExitCode.QualityGateFailed
    artifact = prepared_again(trained, run, tmp_path)
    assert artifact
    assert artifact.uri == artifact_uri(run, small.digest)
    manifest = small.bucket.read_manifest(artifact.uri, ArtifactManifest)
    assert manifest
    small.bucket.fetch_files(manifest.files, artifact.uri, tmp_path / "fetched")
    assert Artifact.model_validate_json(small.bucket.read(latest_uri(run))) == artifact
