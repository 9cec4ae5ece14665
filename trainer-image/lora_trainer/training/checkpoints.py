"""Checkpoints in the bucket: published in the background during training, and fetched again to resume.

A checkpoint is a set in the folder step-N. Nothing here knows what its files mean, only which must be there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket

STEPS_UNTIL_PROVEN = 2
"""The loss of the step after a checkpoint measures its model, and is known when the step after that is saved."""
TRAINER_STATE = "trainer_state.json"
"""transformers' own record, with the log of all steps so far."""
NEEDED_TO_RESUME = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", TRAINER_STATE)


def random_state(process: int, *, of: int) -> str:
    """transformers' name of the file with a process's state of random numbers."""
    return "rng_state.pth" if of == 1 else f"rng_state_{process}.pth"


def needed_to_resume(processes: int) -> tuple[str, ...]:
    """Files of a complete checkpoint."""
    return (*NEEDED_TO_RESUME, *(random_state(process, of=processes) for process in range(processes)))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint."""

    step: int
    """Optimizer step after which it was made."""
    uri: str


def committed(bucket: Bucket, uri: str) -> list[Checkpoint]:
    """Checkpoints below `uri` that have a manifest, newest first."""
    steps = (re.fullmatch(rf"step-(\d+)/{re.escape(MANIFEST)}", file.path) for file in bucket.list(uri))
    found = (Checkpoint(step=int(step[1]), uri=f"{uri}/step-{step[1]}") for step in steps if step)
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def fetch_newest(bucket: Bucket, uri: str, *, fingerprint: str, folder: Path) -> Checkpoint | None:
    """Fetch the newest committed checkpoint into `folder`, or return None where there is none.

    Raises TrainerError: ConfigInvalid for one of another run, StorageUnavailable for one that is damaged.
    """
    for checkpoint in committed(bucket, uri):
        manifest = bucket.read_manifest(checkpoint.uri, SetManifest)
        if manifest is None:
            continue
        if manifest.fingerprint != fingerprint:
            raise _foreign(checkpoint, fingerprint=manifest.fingerprint)
        bucket.fetch_files(manifest.files, checkpoint.uri, folder)
        return checkpoint
    return None


def fetch_step(bucket: Bucket, uri: str, *, step: int, folder: Path) -> None:
    """Fetch the checkpoint of this step into `folder`. Raises StorageUnavailable where it is gone or damaged."""
    checkpoint_uri = f"{uri}/step-{step}"
    manifest = bucket.read_manifest(checkpoint_uri, SetManifest)
    if manifest is None:
        raise TrainerError(
            ExitCode.StorageUnavailable,
            f"The checkpoint {checkpoint_uri}, which the run still needs, is gone.",
            "Apply the LoraFineTune under a new name, and keep a run's work folder until the run is done.",
        )
    bucket.fetch_files(manifest.files, checkpoint_uri, folder)


def _foreign(checkpoint: Checkpoint, *, fingerprint: str) -> TrainerError:
    return TrainerError(
        ExitCode.ConfigInvalid,
        f"The checkpoint {checkpoint.uri} belongs to another run (digest {fingerprint[:12]}): the dataset, the base "
        "model or a setting has changed since.",
        "Apply the LoraFineTune under a new name, or restore the dataset and the model.",
    )


class CheckpointWriter:
    """Publishes checkpoint folders, one at a time, in a background thread while used as a context manager.

    `submit` waits for the upload before it and raises its error; leaving waits for the last one. A caller that does not
    want to wait looks at `busy` first.
    """

    def __init__(
        self,
        *,
        bucket: Bucket,
        uri: str,
        fingerprint: str,
        keep: int,
        on_commit: Callable[[Checkpoint], None],
        processes: int = 1,
    ) -> None:
        """`keep` newest checkpoints stay in the bucket. `on_commit` is called in the background thread."""
        self._bucket = bucket
        self._uri = uri
        self._fingerprint = fingerprint
        self._keep = keep
        self._on_commit = on_commit
        self._needed = needed_to_resume(processes)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._in_flight: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether an upload is in flight."""
        return self._in_flight is not None and not self._in_flight.done()

    def submit(self, folder: Path, *, step: int, best_step: int | None = None) -> None:
        """Publish `folder` as the checkpoint of `step` and delete it. The caller must not touch it any more.

        The checkpoint of `best_step` stays in the bucket in addition to the newest ones.
        """
        missing = [name for name in self._needed if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"the checkpoint of step {step} lacks {', '.join(missing)}")
        self.join()
        self._in_flight = self._pool.submit(self._publish, folder, step, best_step)

    def join(self) -> None:
        """Wait for the upload in flight; raises its error."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight:
            in_flight.result()

    def newest(self, *, before: int) -> Checkpoint | None:
        """The newest checkpoint of a step below `before`, once the upload in flight has ended."""
        self.join()
        return next((found for found in committed(self._bucket, self._uri) if found.step < before), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self.join()

    def _publish(self, folder: Path, step: int, best_step: int | None) -> None:
        checkpoint = Checkpoint(step=step, uri=f"{self._uri}/step-{step}")
        self._bucket.publish_set(
            folder,
            checkpoint.uri,
            manifest=lambda files: SetManifest(fingerprint=self._fingerprint, step=step, files=files),
        )
        shutil.rmtree(folder)
        self._on_commit(checkpoint)
        self._delete_older(step, best_step)

    def _delete_older(self, step: int, best_step: int | None) -> None:
        """Delete older checkpoints. Keeps the newest ones up to `step`, at least down to one that a later loss has
        confirmed, and the best. Deletes incomplete folders before `step` too."""
        newest = [checkpoint.step for checkpoint in committed(self._bucket, self._uri) if checkpoint.step <= step]
        unproven = sum(older > step - STEPS_UNTIL_PROVEN for older in newest)
        kept = {*newest[: max(self._keep, unproven + 1)], best_step}
        folders = {found[1] for file in self._bucket.list(self._uri) if (found := re.match(r"step-(\d+)/", file.path))}
        for old in sorted(int(folder) for folder in folders):
            if old < step and old not in kept:
                self._bucket.delete_prefix(f"{self._uri}/step-{old}")
