"""What can go wrong in a train or verify pod before its first step, with the real processes on a real S3 server: each
ends with its exit code, one sentence that names the place, and a remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, checkpoints_uri, prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Outcome, decode_outcome

from tests.ports import free_port
from tests.support.fork_server import Kind
from tests.support.object_store import ObjectStore
from tests.support.runs import BUCKET
from tests.support.tiny_model import CONFIG, write_tiny_model
from tests.support.trained import SmallRun, small_run
from tests.support.trainer_process import complete

MODEL = "models/broken"
SECONDS = 120


@dataclass(kw_only=True)
class Broken:
    """A prepared run of a tiny model, and what a case changes before train starts."""

    small: SmallRun
    store: ObjectStore
    scratch: Path
    document: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    wrap: tuple[str, ...] = ()
    """What the process is started by."""
    text: str | None = None
    """The run file, where it is not the document."""

    def path(self, uri: str) -> Path:
        """Where the server keeps an object."""
        return self.store.folder / uri.removeprefix("s3://")

    @property
    def prepared(self) -> Path:
        """The prepared set."""
        return self.path(prepared_uri(self.small.run))

    def train(self) -> tuple[int, Outcome | None, str]:
        """Run the stage: exit code, termination message, log."""
        file, word = self.scratch.parent / "run.json", self.scratch.parent / "last-word"
        file.write_text(self.text if self.text is not None else json.dumps(self.document))
        arguments = ["train", "--run", str(file), "--scratch", str(self.scratch), "--port", str(free_port())]
        arguments += ["--termination-log", str(word)]
        if self.wrap:
            command = [*self.wrap, sys.executable, "-m", "lora_trainer", *arguments]
            done = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        else:
            done = complete(arguments, kind=Kind.SFT, environment=self.environment, timeout=SECONDS)
        return done.returncode, decode_outcome(word.read_text()) if word.exists() else None, done.stderr


@pytest.fixture
def broken(credentials: ObjectStore, tmp_path: Path) -> Iterator[Broken]:
    folder = credentials.folder / BUCKET / MODEL
    write_tiny_model(folder)
    small = small_run(
        credentials,
        tmp_path,
        name="broken",
        model={"name": f"s3://{BUCKET}/{MODEL}", "maxSeqLength": 512},
        dataset={"uri": f"s3://{BUCKET}/data/eval.jsonl"},
    )
    (tmp_path / "pod/scratch").mkdir(parents=True)
    yield Broken(small=small, store=credentials, scratch=tmp_path / "pod/scratch", document=small.run.wire())
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(credentials.folder / BUCKET / "work")


Change = Callable[[Broken], object]


def gone(name: str) -> Change:
    """A file of the prepared set is gone."""
    return lambda broken: (broken.prepared / name).unlink()


def other_bytes(name: str, *, cut: int = 0) -> Change:
    """A file of the prepared set is another, or shorter."""

    def change(broken: Broken) -> None:
        file = broken.prepared / name
        contents = file.read_bytes()
        file.write_bytes(contents[:-cut] if cut else bytes(byte ^ 1 for byte in contents))

    return change


def manifest_of_another_run(broken: Broken) -> None:
    """The prepared set's manifest names another run."""
    file = broken.prepared / MANIFEST
    manifest = SetManifest.model_validate_json(file.read_bytes())
    file.write_text(manifest.model_copy(update={"fingerprint": "0" * 64}).model_dump_json(by_alias=True))


def checkpoint(*, fingerprint: str | None = None, damaged: bool = False) -> Change:
    """A checkpoint is there that cannot be used."""

    def change(broken: Broken) -> None:
        source = broken.scratch.parent / "checkpoint"
        source.mkdir()
        (source / "adapter_model.safetensors").write_bytes(b"weights")
        uri = f"{checkpoints_uri(broken.small.run)}/step-2"
        print_of_run = fingerprint or broken.small.digest
        broken.small.bucket.publish_set(
            source, uri, manifest=lambda files: SetManifest(fingerprint=print_of_run, step=2, files=files)
        )
        if damaged:
            (broken.path(uri) / "adapter_model.safetensors").write_bytes(b"w3ights")

    return change


def model_gone(broken: Broken) -> None:
    """Somebody deletes the base model."""
    shutil.rmtree(broken.path(f"s3://{BUCKET}/{MODEL}"))


def model_changed(broken: Broken) -> None:
    """Somebody replaces the base model."""
    write_tiny_model(broken.path(f"s3://{BUCKET}/{MODEL}"), config=CONFIG | {"rope_theta": 1.0})


def variable(**changes: str) -> Change:
    """The pod's environment is another."""
    return lambda broken: broken.environment.update(changes)


def without_credentials(broken: Broken) -> None:
    """The Secret is empty."""
    for name in broken.store.environment:
        del broken.environment[name]


def block(name: str, **changes: Any) -> Change:
    """A block of the run file is another."""
    return lambda broken: broken.document.update({name: broken.document.get(name, {}) | changes})


def run_file_text(text: str) -> Change:
    """The run file is no run file."""

    def change(broken: Broken) -> None:
        broken.text = text

    return change


def no_room(broken: Broken) -> None:
    """The scratch volume has 64 KiB."""
    mount = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    broken.wrap = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(broken.scratch))


CASES: dict[str, tuple[Change, ExitCode, str]] = {
    "prepared-set-gone": (gone(MANIFEST), ExitCode.StorageUnavailable, "no complete prepared set at s3://team-a/work"),
    "prepared-rows-gone": (gone("train.parquet"), ExitCode.StorageUnavailable, "train.parquet"),
    "prepared-rows-changed": (other_bytes("train.parquet"), ExitCode.StorageUnavailable, "sha256 of train.parquet"),
    "prepared-rows-cut": (other_bytes("eval.parquet", cut=9), ExitCode.StorageUnavailable, "eval.parquet has"),
    "prepared-set-of-another-run": (manifest_of_another_run, ExitCode.StorageUnavailable, "mixes two runs"),
    "checkpoint-of-another-run": (
        checkpoint(fingerprint="1" * 64),
        ExitCode.ConfigInvalid,
        "step-2 belongs to another run",
    ),
    "checkpoint-damaged": (checkpoint(damaged=True), ExitCode.StorageUnavailable, "adapter_model.safetensors"),
    "model-gone": (model_gone, ExitCode.ConfigInvalid, "s3://team-a/models/broken has changed since"),
    "model-changed": (model_changed, ExitCode.ConfigInvalid, "s3://team-a/models/broken has changed since"),
    "access-key-unknown": (variable(AWS_ACCESS_KEY_ID="nobody"), ExitCode.StorageDenied, "'team-a' refused to"),
    "secret-key-wrong": (variable(AWS_SECRET_ACCESS_KEY="wrong"), ExitCode.StorageDenied, "'team-a' refused to"),
    "no-credentials": (without_credentials, ExitCode.StorageDenied, "no credentials to"),
    "work-bucket-gone": (block("storage", workUri="s3://no-bucket/work"), ExitCode.StorageDenied, "'no-bucket'"),
    "no-gpu": (block("accelerator", kind="GPU", memoryGiB=24), ExitCode.GpuUnhealthy, "requested a GPU, but torch"),
    "run-file-empty": (run_file_text(""), ExitCode.ConfigInvalid, "run file is invalid"),
    "run-file-of-another-version": (run_file_text('{"version": 9}'), ExitCode.ConfigInvalid, "version"),
    "run-file-of-another-run": (block("lora", r=8), ExitCode.ConfigInvalid, "is not the one that the run was prepared"),
    "run-file-with-unknown-field": (block("lora", rank=8), ExitCode.ConfigInvalid, "lora.rank"),
    "scratch-full": (no_room, ExitCode.DiskFull, "scratch volume"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_start_is_named(broken: Broken, name: str) -> None:
    change, code, words = CASES[name]
    change(broken)
    ended, outcome, log = broken.train()
    assert outcome is not None, log
    assert (ended, outcome.reason) == (code, code.name), log
    assert words in outcome.message
    assert "Traceback" not in outcome.message
    assert "\n" not in outcome.message
    assert outcome.remedy
    assert broken.store.secret_key not in log + outcome.message
