"""Base models kept on a volume: filled whole by prepare, read by train without asking anybody."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from lora_trainer.base_model.cache import PARTIAL, cached_folder, keep
from lora_trainer.base_model.resolve import base_folder, keep_model
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError, disk_full
from lora_trainer.prepare import prepare as prepare_run
from lora_trainer.storage import Bucket
from obstore.store import LocalStore

from tests.support.model_hub import COMMIT, NAME, Hub
from tests.support.prepare_world import World
from tests.support.runs import run_file
from tests.support.tiny_model import write_tiny_model
from tests.unit.trainer.test_base_model import hub

__all__ = ["hub"]

WEIGHTS = "model.safetensors"
ON_CLAIM = {"claimRef": {"name": "claim", "path": "tiny"}}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def a_run(name: str) -> RunFile:
    return run_file(model={"name": name}).model_copy(update={"model_cache": True})


def no_bucket(_: str) -> LocalStore:
    raise AssertionError("no bucket is asked")


@pytest.mark.usefixtures("hub")
def test_a_hub_model_is_fetched_once_and_then_read_offline(hub: Hub, cache: Path, tmp_path: Path) -> None:
    run, bucket = a_run(NAME), Bucket(open_store=no_bucket)
    keep_model(run, revision=COMMIT, bucket=bucket, cache=cache)
    assert [path.name for path in cache.iterdir()] == [f"tiny-{COMMIT}"]
    hub.asked.clear()
    keep_model(run, revision=COMMIT, bucket=bucket, cache=cache)
    scratch = tmp_path / "scratch"
    base = base_folder(run, revision=COMMIT, bucket=bucket, scratch=scratch, cache=cache)
    assert (base / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.asked == []
    assert not scratch.exists()


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_gone_from_the_cache_is_fetched_by_train(cache: Path, tmp_path: Path) -> None:
    run, bucket = a_run(NAME), Bucket(open_store=no_bucket)
    base = base_folder(run, revision=COMMIT, bucket=bucket, scratch=tmp_path / "scratch", cache=cache)
    assert base == tmp_path / "scratch"
    assert (base / WEIGHTS).exists()


def test_prepare_keeps_a_model_of_a_bucket(world: World, cache: Path) -> None:
    def prepare():
        run = a_run("s3://team-a/models/smollm2")
        return prepare_run(run, bucket=world.bucket, progress=world.progress, scratch=world.scratch, cache=cache)

    result = prepare()
    kept = cached_folder(cache, name="s3://team-a/models/smollm2", revision=result.model.revision)
    assert list(cache.iterdir()) == [kept]
    assert (kept / WEIGHTS).read_bytes() == (world.root / "models/smollm2" / WEIGHTS).read_bytes()
    (kept / WEIGHTS).write_text("left alone")
    prepare()
    assert (kept / WEIGHTS).read_text() == "left alone"


def test_nothing_is_kept_unless_the_class_has_a_cache(world: World, cache: Path) -> None:
    world.prepare()
    assert list(cache.iterdir()) == []


def test_a_model_on_a_volume_stays_there(cache: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "claim/tiny")
    bucket = Bucket(open_store=lambda _: LocalStore(tmp_path / "claim"), pvc_root=tmp_path)
    run = run_file(model=ON_CLAIM).model_copy(update={"model_cache": True})
    keep_model(run, revision="any", bucket=bucket, cache=cache)
    assert list(cache.iterdir()) == []


def test_other_contents_have_another_folder(cache: Path) -> None:
    folders = {
        cached_folder(cache, name=name, revision=revision)
        for name in ("s3://a/tiny", "s3://b/tiny/")
        for revision in ("1", "2", "../../2")
    }
    assert len(folders) == 3, "the revision stands for the contents"
    assert all(folder.parent == cache for folder in folders)


def test_two_that_fill_it_at_once_leave_one_whole_model(cache: Path) -> None:
    both_are_at_it = threading.Barrier(2)

    def fetch(folder: Path) -> None:
        (folder / WEIGHTS).write_text("weights")
        both_are_at_it.wait(timeout=10)

    def fill(owner: str) -> None:
        keep(cache / "tiny-1", owner=owner, fetch=fetch)

    threads = [threading.Thread(target=fill, args=(owner,)) for owner in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in cache.iterdir()] == ["tiny-1"]
    assert (cache / "tiny-1" / WEIGHTS).read_text() == "weights"


def test_an_interrupted_download_is_invisible_and_gone_on_with(cache: Path) -> None:
    def dies(folder: Path) -> None:
        (folder / "half").write_text("of it")
        raise TrainerError(ExitCode.HubUnavailable, "The hub is away.")

    folder = cache / "tiny-1"
    with pytest.raises(TrainerError, match="away"):
        keep(folder, owner="a", fetch=dies)
    assert not folder.exists()
    keep(folder, owner="a", fetch=lambda partial: (partial / "rest").touch())
    assert sorted(path.name for path in folder.iterdir()) == ["half", "rest"]


@pytest.mark.parametrize("error", [disk_full(), OSError(errno.EDQUOT, "quota")], ids=["told", "raw"])
def test_a_full_volume_is_named_and_left_without_rubbish(cache: Path, error: Exception) -> None:
    def fetch(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(TrainerError, match="volume of the model cache is full") as caught:
        keep(cache / "tiny-1", owner="a", fetch=fetch)
    assert caught.value.code is ExitCode.DiskFull
    assert "modelCache.claimName" in (caught.value.remedy or "")
    assert not list(cache.glob(f"{PARTIAL}*"))
