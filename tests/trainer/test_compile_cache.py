"""Compiled code in the bucket: kept by one run, found by the next of the same shape, and never needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.base_model.resolve import CONFIG
from lora_trainer.contract.layout import compiled_uri
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.storage import Bucket, open_bucket
from lora_trainer.training.compile_cache import CompileCache, run_fingerprint

from tests.support.object_store import ObjectStore
from tests.support.runs import run_file

KERNEL = "inductor/ab/kernel.py"
CHOSEN = Chosen(
    max_steps=4,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=1,
    learning_rate=2e-4,
    save_steps=10,
    packing=True,
    packing_length=2048,
    optim="adamw_8bit",
    dtype="bfloat16",
)


@pytest.fixture
def run(credentials: ObjectStore, tmp_path: Path) -> RunFile:
    return run_file(endpoint=credentials.endpoint, identity={"uid": tmp_path.name})


@pytest.fixture
def bucket(run: RunFile) -> Bucket:
    return open_bucket(run.storage)


@pytest.fixture
def cache(run: RunFile, bucket: Bucket, tmp_path: Path) -> Callable[..., CompileCache]:
    """The cache of a node, whose folder is named; of one fingerprint for each test where none is named."""

    def on_node(node: str, fingerprint: str = tmp_path.name) -> CompileCache:
        return CompileCache(run, bucket=bucket, fingerprint=fingerprint, folder=tmp_path / node)

    return on_node


def compile_something(folder: Path) -> None:
    path = folder / KERNEL
    path.parent.mkdir(parents=True)
    path.write_text("pass")


def first_steps_done(cache: CompileCache) -> None:
    """And all that follows from it."""
    cache.first_steps_done().join()


def test_the_next_run_finds_what_one_compiled(cache: Callable[..., CompileCache], tmp_path: Path) -> None:
    first, second = cache("first"), cache("second")
    assert not first.fetch()
    compile_something(tmp_path / "first")
    first_steps_done(first)
    assert second.fetch()
    assert (tmp_path / "second" / KERNEL).read_text() == "pass"


def test_a_file_that_is_there_may_be_loaded_and_is_left_alone(
    cache: Callable[..., CompileCache], tmp_path: Path
) -> None:
    compile_something(tmp_path / "first")
    first_steps_done(cache("first"))
    compile_something(tmp_path / "second")
    before = (tmp_path / "second" / KERNEL).stat()
    assert cache("second").fetch()
    after = (tmp_path / "second" / KERNEL).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_was_found_is_not_kept_again(
    cache: Callable[..., CompileCache], run: RunFile, bucket: Bucket, tmp_path: Path
) -> None:
    compile_something(tmp_path / "first")
    first_steps_done(cache("first"))
    before = bucket.list(compiled_uri(run, tmp_path.name))
    second = cache("second")
    assert second.fetch()
    compile_something(tmp_path / "second/more")
    first_steps_done(second)
    assert bucket.list(compiled_uri(run, tmp_path.name)) == before


def test_a_run_that_compiled_nothing_keeps_nothing(
    cache: Callable[..., CompileCache], run: RunFile, bucket: Bucket, tmp_path: Path
) -> None:
    first_steps_done(cache("first"))
    assert bucket.list(compiled_uri(run, tmp_path.name)) == []


def test_a_damaged_archive_is_not_used(
    cache: Callable[..., CompileCache],
    run: RunFile,
    bucket: Bucket,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_something(tmp_path / "first")
    first_steps_done(cache("first"))
    uri = compiled_uri(run, tmp_path.name)
    [archive] = [file.path for file in bucket.list(uri) if file.path.endswith(".tar.gz")]
    data = bytearray(bucket.read(f"{uri}/{archive}"))
    data[-1] ^= 1
    bucket.write(f"{uri}/{archive}", bytes(data))
    with caplog.at_level(logging.WARNING):
        assert not cache("second").fetch()
    assert "sha256" in caplog.text
    assert not (tmp_path / "second").exists()


def test_a_bucket_that_refuses_costs_no_run(run: RunFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = run.model_copy(update={"storage": run.storage.model_copy(update={"work_uri": "s3://missing/runs"})})
    cache = CompileCache(nowhere, bucket=open_bucket(nowhere.storage), fingerprint="f", folder=tmp_path / "node")
    compile_something(tmp_path / "node")
    with caplog.at_level(logging.WARNING):
        assert not cache.fetch()
        first_steps_done(cache)
    assert "could not be published to s3://missing/runs/team-a/_compiled/f" in caplog.text


def test_code_that_an_attempt_died_with_is_thrown_away(cache: Callable[..., CompileCache], tmp_path: Path) -> None:
    compile_something(tmp_path / "first")
    first_steps_done(cache("first"))
    assert cache("dies").fetch() is True
    assert cache("next").fetch() is False, "the attempt before took no steps"
    compile_something(tmp_path / "next")
    assert cache("another run").fetch() is False, "nobody meets it again"
    first_steps_done(cache("next"))
    assert cache("later").fetch() is True


def test_an_attempt_of_another_shape_says_nothing_of_the_code(
    cache: Callable[..., CompileCache], tmp_path: Path
) -> None:
    compile_something(tmp_path / "first")
    for node, fingerprint in (("first", "large"), ("first", "small")):
        first_steps_done(cache(node, fingerprint))
    assert cache("runs out of memory", "large").fetch()
    assert cache("goes on with half the rows", "small").fetch()


def test_code_is_on_trial_during_the_first_steps_only(cache: Callable[..., CompileCache], tmp_path: Path) -> None:
    compile_something(tmp_path / "first")
    first_steps_done(cache("first"))
    for attempt in ("second", "third"):
        found = cache(attempt)
        assert found.fetch()
        first_steps_done(found)


@pytest.mark.parametrize(
    ("same", "blocks", "update"),
    [
        (True, {"training": {"learningRate": 1e-3}}, {"learning_rate": 1e-3, "max_steps": 9}),
        (True, {"identity": {"name": "another"}, "dataset": {"uri": "s3://team-a/data/other.jsonl"}}, {}),
        (False, {"lora": {"r": 32}}, {}),
        (False, {"model": {"maxSeqLength": 1024}}, {}),
        (False, {}, {"kept_layers": 3}),
        (False, {}, {"dtype": "float16"}),
    ],
)
def test_runs_of_one_shape_share_a_fingerprint(
    tmp_path: Path, *, same: bool, blocks: dict[str, Any], update: dict[str, Any]
) -> None:
    (tmp_path / CONFIG).write_text('{"hidden_size": 8}')
    fingerprints = {
        run_fingerprint(run_file(**these), chosen, base=tmp_path, accelerator="an accelerator")
        for these, chosen in (({}, CHOSEN), (blocks, CHOSEN.model_copy(update=update)))
    }
    assert (len(fingerprints) == 1) is same
