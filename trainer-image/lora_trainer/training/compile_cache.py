"""Keeps what torch and Triton compiled in the first steps of a run in the bucket, for later runs of the same shape.

A process that loads compiled code executes it. The code comes only from the work folder of the run's own namespace,
whose pods have the same permissions as this one, and is compared with the sha256 of its manifest. No run depends on it:
problems are logged, and the run compiles again. An attempt that ends in its first steps with such code leaves a mark,
and the next attempt deletes the code, because it may have killed the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_trainer.base_model.resolve import CONFIG
from lora_trainer.contract.layout import MANIFEST, compiled_uri, trial_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile, canonical_json
from lora_trainer.errors import TrainerError
from lora_trainer.libraries import versions
from lora_trainer.storage import Bucket, file_sha256

STEPS_THAT_COMPILE = 4
"""The first is compiled for its own sizes, the next for sizes that vary; later ones seldom compile anything."""
WHAT_IS_COMPILED_FOR = {
    "loader",
    "per_device_train_batch_size",
    "kept_layers",
    "packing",
    "packing_length",
    "optim",
    "dtype",
    "quantization",
}
"""Fields of Chosen that shape the code of a step."""

log = logging.getLogger(__name__)


def run_fingerprint(run: RunFile, chosen: Chosen, *, base: Path, accelerator: str) -> str:
    """sha256 of what decides what is compiled: libraries, accelerator, and the shapes of model, adapter and step."""
    shape = {
        "libraries": versions(),
        "accelerator": accelerator,
        "model": json.loads((base / CONFIG).read_bytes()),
        "maxSeqLength": run.model.max_seq_length,
        "lora": run.lora.wire(),
        "method": run.training.method,
        "chosen": chosen.model_dump(mode="json", include=WHAT_IS_COMPILED_FOR),
    }
    return hashlib.sha256(canonical_json(shape)).hexdigest()


class CompileCache:
    """The compiled code of one run's shape: `folder` on this node, and its copy in the bucket."""

    def __init__(self, run: RunFile, *, bucket: Bucket, fingerprint: str, folder: Path, marks: bool = True) -> None:
        """One node of an attempt `marks` that the code is on trial, until the first steps are done."""
        self._bucket = bucket
        self._uri = compiled_uri(run, fingerprint)
        self._trial = trial_uri(run) if marks else None
        self._fingerprint = fingerprint
        self._folder = folder
        self._found = False

    def fetch(self) -> bool:
        """Fill the folder from the bucket, and return whether there was any code. Call it before anything compiles."""
        began = time.monotonic()
        try:
            if self._discarded():
                return False
            manifest = self._bucket.read_manifest(self._uri, SetManifest)
            if manifest is None or manifest.fingerprint != self._fingerprint:
                return False
            if self._trial:
                self._bucket.write(self._trial, self._fingerprint.encode())
            with TemporaryDirectory() as temporary:
                self._bucket.fetch_files(manifest.files, self._uri, Path(temporary))
                for file in manifest.files:
                    unpack(Path(temporary) / file.path, self._folder)
        except (TrainerError, OSError, tarfile.TarError) as error:
            log.warning("Compiled code at %s cannot be used: %s", self._uri, error)
            return False
        self._found = True
        size = sum(file.size for file in manifest.files)
        log.info("Compiled code fetched", extra={"fields": log_fields(self._uri, size, began)})
        return True

    def first_steps_done(self) -> threading.Thread:
        """Publish the folder, or end the trial of code from the bucket. Returns the thread that does so; callers need
        not wait for it."""
        do = self._end_trial if self._found else self._publish
        thread = threading.Thread(target=do, name="compiled", daemon=True)
        thread.start()
        return thread

    def _discarded(self) -> bool:
        """Delete code on trial that an earlier attempt left, and return whether there was any."""
        if not self._trial or self._bucket.read_if_there(self._trial) != self._fingerprint.encode():
            return False
        log.warning("An attempt ended in its first steps with the compiled code at %s: compiling again", self._uri)
        self._bucket.delete(f"{self._uri}/{MANIFEST}")
        self._bucket.delete(self._trial)
        return True

    def _end_trial(self) -> None:
        try:
            if self._trial:
                self._bucket.delete(self._trial)
        except TrainerError as error:
            log.warning("The next attempt will not use the compiled code at %s: %s", self._uri, error)

    def _publish(self) -> None:
        began = time.monotonic()
        try:
            with TemporaryDirectory() as temporary:
                size = pack(self._folder, Path(temporary))
                if not size:
                    return
                self._bucket.publish_set(
                    Path(temporary),
                    self._uri,
                    manifest=lambda files: SetManifest(fingerprint=self._fingerprint, files=files),
                )
        except (TrainerError, OSError, tarfile.TarError) as error:
            log.warning("Compiled code could not be published to %s: %s", self._uri, error)
            return
        log.info("Compiled code published", extra={"fields": log_fields(self._uri, size, began)})


def pack(folder: Path, target: Path) -> int:
    """Write the files of `folder` as one archive into `target`; its bytes, or 0 where there are no files.

    It is named by its contents: of two runs that publish at once one manifest wins, and its archive is there.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return 0
    draft = target / "draft"
    with tarfile.open(draft, "w:gz", compresslevel=1) as archive:
        for path in files:
            archive.add(path, arcname=path.relative_to(folder))
    return draft.rename(target / f"{file_sha256(draft)}.tar.gz").stat().st_size


def unpack(archive: Path, folder: Path) -> None:
    """Move the files of an archive into `folder`, but those that are there: Triton has loaded a library from it, and a
    library that is written to while it is loaded crashes the process."""
    with TemporaryDirectory(dir=archive.parent) as temporary, tarfile.open(archive) as files:
        files.extractall(temporary, filter="data")
        for path in Path(temporary).rglob("*"):
            target = folder / path.relative_to(temporary)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)


def log_fields(uri: str, size: int, began: float) -> dict[str, object]:
    """Fields of a log record about compiled code."""
    return {"uri": uri, "megabytes": round(size / 1e6, 1), "seconds": round(time.monotonic() - began, 1)}
