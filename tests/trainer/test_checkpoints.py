"""Checkpoints in a bucket, without training: what counts as one, which are kept, what happens to errors."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket
from lora_trainer.training.checkpoints import Checkpoint, CheckpointWriter, committed, fetch_newest, needed_to_resume
from obstore.store import MemoryStore

NEEDED_TO_RESUME = needed_to_resume(1)
URI = "s3://team-a/runs/checkpoints"


@pytest.fixture
def bucket() -> Bucket:
    store = MemoryStore()
    return Bucket(open_store=lambda _: store)


def checkpoint_folder(path: Path, *, contents: bytes = b"x") -> Path:
    path.mkdir(parents=True)
    for name in NEEDED_TO_RESUME:
        (path / name).write_bytes(contents)
    return path


def writer(bucket: Bucket, *, keep: int = 2, seen: Callable[[Checkpoint], None] = lambda _: None) -> CheckpointWriter:
    return CheckpointWriter(bucket=bucket, uri=URI, fingerprint="run-1", keep=keep, on_commit=seen)


def test_the_newest_ones_are_kept_in_order_of_steps_not_of_names(bucket: Bucket, tmp_path: Path) -> None:
    seen: list[Checkpoint] = []
    with writer(bucket, seen=seen.append) as checkpoints:
        for step in (8, 10, 12):
            checkpoints.submit(checkpoint_folder(tmp_path / str(step)), step=step)
    assert [found.step for found in committed(bucket, URI)] == [12, 10]
    assert [found.step for found in seen] == [8, 10, 12]
    assert not any(file.path.startswith("step-8/") for file in bucket.list(URI))
    assert not (tmp_path / "12").exists(), "an uploaded checkpoint no longer takes local disk"


def test_one_that_a_later_loss_has_proven_is_kept_however_few_are_wanted(bucket: Bucket, tmp_path: Path) -> None:
    kept = []
    with writer(bucket, keep=1) as checkpoints:
        for step in (1, 2, 3, 4, 9, 20):
            checkpoints.submit(checkpoint_folder(tmp_path / str(step)), step=step)
            checkpoints.join()
            kept.append([found.step for found in committed(bucket, URI)])
    assert kept == [[1], [2, 1], [3, 2, 1], [4, 3, 2], [9, 4], [20, 9]]


def test_a_torn_one_is_invisible_and_swept_by_the_next(bucket: Bucket, tmp_path: Path) -> None:
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "2"), step=2)
    bucket.write(f"{URI}/step-4/optimizer.pt", b"half")
    assert [found.step for found in committed(bucket, URI)] == [2]
    newest = fetch_newest(bucket, URI, fingerprint="run-1", folder=tmp_path / "resumed")
    assert newest == Checkpoint(step=2, uri=f"{URI}/step-2")
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "6"), step=6)
    assert {file.path.partition("/")[0] for file in bucket.list(URI)} == {"step-2", "step-6"}


@pytest.mark.parametrize("files", range(len(NEEDED_TO_RESUME) + 1))
def test_an_upload_cut_off_after_any_file_leaves_the_one_before(
    files: int, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "2"), step=2)
    sent = itertools.count()
    lost = TrainerError(ExitCode.StorageUnavailable, "the bucket is gone")

    def cut_off(send: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object, **options: object) -> object:
            if next(sent) >= files:
                raise lost
            return send(*arguments, **options)

        return instead

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "upload", cut_off(bucket.upload))
        patch.setattr(bucket, "write", cut_off(bucket.write))  # the manifest
        with pytest.raises(TrainerError) as heard, writer(bucket) as checkpoints:
            checkpoints.submit(checkpoint_folder(tmp_path / "4"), step=4)
    assert heard.value is lost
    newest = fetch_newest(bucket, URI, fingerprint="run-1", folder=tmp_path / "resumed")
    assert newest == Checkpoint(step=2, uri=f"{URI}/step-2")


def test_a_writer_is_busy_as_long_as_an_upload_lasts(bucket: Bucket, tmp_path: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold(_: Checkpoint) -> None:
        arrived.set()
        assert go_on.wait(10)

    with writer(bucket, seen=hold) as checkpoints:
        assert not checkpoints.busy
        checkpoints.submit(checkpoint_folder(tmp_path / "2"), step=2)
        assert arrived.wait(10)
        assert checkpoints.busy
        go_on.set()
        checkpoints.join()
        assert not checkpoints.busy


def test_the_newest_from_before_a_step(bucket: Bucket, tmp_path: Path) -> None:
    with writer(bucket, keep=3) as checkpoints:
        assert checkpoints.newest(before=9) is None
        for step in (2, 4, 6):
            checkpoints.submit(checkpoint_folder(tmp_path / str(step)), step=step)
        assert checkpoints.newest(before=6) == Checkpoint(step=4, uri=f"{URI}/step-4")
        assert checkpoints.newest(before=7) == Checkpoint(step=6, uri=f"{URI}/step-6")


def test_what_is_fetched_is_what_was_written(bucket: Bucket, tmp_path: Path) -> None:
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "3", contents=b"three"), step=3)
    fetch_newest(bucket, URI, fingerprint="run-1", folder=tmp_path / "resumed")
    assert {path.name: path.read_bytes() for path in (tmp_path / "resumed").iterdir()} == dict.fromkeys(
        NEEDED_TO_RESUME, b"three"
    )


def test_one_of_another_run_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "3"), step=3)
    with pytest.raises(TrainerError, match="belongs to another run") as refused:
        fetch_newest(bucket, URI, fingerprint="run-2", folder=tmp_path / "resumed")
    assert refused.value.code == ExitCode.ConfigInvalid
    assert not (tmp_path / "resumed").exists()


def test_a_damaged_one_is_not_resumed_from(bucket: Bucket, tmp_path: Path) -> None:
    with writer(bucket) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "3"), step=3)
    bucket.write(f"{URI}/step-3/optimizer.pt", b"y")
    with pytest.raises(TrainerError, match=r"sha256 of optimizer\.pt") as damaged:
        fetch_newest(bucket, URI, fingerprint="run-1", folder=tmp_path / "resumed")
    assert damaged.value.code == ExitCode.StorageUnavailable


def test_none_yet(bucket: Bucket, tmp_path: Path) -> None:
    assert fetch_newest(bucket, URI, fingerprint="run-1", folder=tmp_path / "resumed") is None


def test_an_incomplete_folder_is_never_published(bucket: Bucket, tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path / "3")
    (folder / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"lacks optimizer\.pt"), writer(bucket) as checkpoints:
        checkpoints.submit(folder, step=3)
    assert bucket.list(URI) == []


def test_an_upload_that_fails_is_heard_of_at_the_end(tmp_path: Path) -> None:
    denied = TrainerError(ExitCode.StorageDenied, "refused")

    def refuse(_: str) -> MemoryStore:
        raise denied

    with pytest.raises(TrainerError) as heard, writer(Bucket(open_store=refuse)) as checkpoints:
        checkpoints.submit(checkpoint_folder(tmp_path / "3"), step=3)
    assert heard.value is denied
