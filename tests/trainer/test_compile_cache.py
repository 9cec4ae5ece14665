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
def run(credentials: ObjectStore) -> RunFile:
    return run_file(endpoint=credentials.endpoint)


@pytest.fixture
def bucket(run: RunFile) -> Bucket:
    return open_bucket(run.storage)


@pytest.fixture
def cache(run: RunFile, bucket: Bucket, tmp_path: Path) -> Callable[..., CompileCache]:
    """The cache of a node, whose folder is named; of one fingerprint for each test."""

    def on_node(node: str) -> CompileCache:
        return CompileCache(run, bucket=bucket, fingerprint=tmp_path.name, folder=tmp_path / node)

    return on_node


def compile_something(folder: Path) -> None:
    path = folder / KERNEL
    path.parent.mkdir(parents=True)
    path.write_text("pass")


def kept(cache: CompileCache) -> None:
    """Keep, and wait until it is."""
    thread = cache.keep()
    if thread:
        thread.join()


def test_the_next_run_finds_what_one_compiled(cache: Callable[..., CompileCache], tmp_path: Path) -> None:
    first, second = cache("first"), cache("second")
    assert not first.fetch()
    compile_something(tmp_path / "first")
    kept(first)
    assert second.fetch()
    assert (tmp_path / "second" / KERNEL).read_text() == "pass"


def test_what_was_found_is_not_kept_again(
    cache: Callable[..., CompileCache], run: RunFile, bucket: Bucket, tmp_path: Path
) -> None:
    compile_something(tmp_path / "first")
    kept(cache("first"))
    before = bucket.list(compiled_uri(run, tmp_path.name))
    second = cache("second")
    assert second.fetch()
    compile_something(tmp_path / "second/more")
    assert second.keep() is None
    assert bucket.list(compiled_uri(run, tmp_path.name)) == before


def test_a_run_that_compiled_nothing_keeps_nothing(
    cache: Callable[..., CompileCache], run: RunFile, bucket: Bucket, tmp_path: Path
) -> None:
    kept(cache("first"))
    assert bucket.list(compiled_uri(run, tmp_path.name)) == []


def test_a_damaged_archive_is_not_used(
    cache: Callable[..., CompileCache],
    run: RunFile,
    bucket: Bucket,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_something(tmp_path / "first")
    kept(cache("first"))
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
    nowhere = run.model_copy(update={"storage": run.storage.model_copy(update={"work_uri": "s3://missing/work"})})
    cache = CompileCache(nowhere, bucket=open_bucket(nowhere.storage), fingerprint="f", folder=tmp_path / "node")
    compile_something(tmp_path / "node")
    with caplog.at_level(logging.WARNING):
        assert not cache.fetch()
        kept(cache)
    assert "is not kept at s3://missing/work/team-a/_compiled/f" in caplog.text


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
