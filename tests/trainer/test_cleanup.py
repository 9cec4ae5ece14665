"""cleanup as its pod runs it, against an S3 server."""

from __future__ import annotations

from pathlib import Path

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import artifact_uri, checkpoints_uri, data_report_uri, prepared_uri, work_uri
from lora_trainer.contract.outcome import CleanupResult, Outcome
from lora_trainer.contract.run import RunFile
from lora_trainer.storage import open_bucket

from tests.support.object_store import ObjectStore
from tests.support.runs import run_file
from tests.support.stage_process import run_stage

MORE_THAN_ONE_REQUEST_DELETES = 1001


def clean_up(run: RunFile, store: ObjectStore, folder: Path, **environment: str) -> tuple[int, Outcome, str]:
    """Run the stage as its pod does: exit code, termination message and log."""
    arguments = ("cleanup", "--work", work_uri(run), "--endpoint", store.endpoint)
    return run_stage(*arguments, folder=folder, store=store, environment=environment)


def test_rows_and_checkpoints_of_one_run_go(credentials: ObjectStore, tmp_path: Path) -> None:
    runs = [run_file(endpoint=credentials.endpoint, identity={"uid": uid}) for uid in ("finished", "finished-2")]
    finished, other = runs
    bucket = open_bucket(finished.storage)
    kept = [
        f"{artifact_uri(finished, 'digest')}/manifest.json",
        data_report_uri(finished),
        f"{prepared_uri(other)}/manifest.json",
        f"{checkpoints_uri(other)}/step-1/manifest.json",
    ]
    gone = [f"{prepared_uri(finished)}/manifest.json", f"{checkpoints_uri(finished)}/step-1/manifest.json"]
    for uri in (*kept, *gone):
        bucket.write(uri, b"contents")
    shards = credentials.folder / checkpoints_uri(finished).removeprefix("s3://") / "step-1"
    for number in range(MORE_THAN_ONE_REQUEST_DELETES):
        (shards / f"shard-{number}").write_bytes(b"contents")
    code, outcome, log = clean_up(finished, credentials, tmp_path)
    assert code == ExitCode.Succeeded, log
    assert outcome.result == CleanupResult(files=len(gone) + MORE_THAN_ONE_REQUEST_DELETES)
    assert not bucket.list(prepared_uri(finished))
    assert not bucket.list(checkpoints_uri(finished))
    assert all(bucket.exists(uri) for uri in kept)


def test_keys_that_are_wrong_are_told(store: ObjectStore, tmp_path: Path) -> None:
    run = run_file(endpoint=store.endpoint)
    code, outcome, log = clean_up(run, store, tmp_path, AWS_SECRET_ACCESS_KEY="wrong-secret-value")
    assert code == ExitCode.StorageDenied
    assert outcome.remedy
    assert "wrong-secret-value" not in outcome.message + log
