"""A real object store that is away, slow or cuts connections, without training: what is written then is whole, or is
not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from lora_trainer import storage
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST
from lora_trainer.contract.manifest import ArtifactManifest
from lora_trainer.contract.run import Storage
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.folder import commit
from lora_trainer.storage import Bucket, open_bucket
from lora_trainer.training.checkpoints import CheckpointWriter, committed, fetch_newest, needed_to_resume

from tests.builders import an_artifact_manifest
from tests.support.object_store import object_store
from tests.support.runs import BUCKET
from tests.support.toxiproxy import Proxy, proxied

CHECKPOINTS = f"s3://{BUCKET}/runs/checkpoints"
ADAPTERS = f"s3://{BUCKET}/adapters"
LARGE = 12 * 2**20
"""Bytes of a file that is sent in parts."""
SECONDS = 2
"""How long a disturbance lasts that ends."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One bucket, seen directly and through the proxy."""

    proxy: Proxy
    direct: Bucket
    through: Bucket


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    folder = tmp_path_factory.mktemp("outages")
    with (
        object_store(folder / "s3", buckets=(BUCKET,)) as store,
        proxied(store.endpoint.removeprefix("http://"), folder=folder) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(storage, "READ_TIMEOUT", timedelta(seconds=4))  # a silent store is noticed soon
        for name, value in store.environment.items():
            patch.setenv(name, value)
        places = [Storage(work_uri="s3://x/y", endpoint=at) for at in (store.endpoint, f"http://{proxy.address}")]
        direct, through = (open_bucket(place) for place in places)
        assert direct.list(CHECKPOINTS) == through.list(CHECKPOINTS) == []  # both are open from now on
        yield Link(proxy=proxy, direct=direct, through=through)


def checkpoint_folder(path: Path) -> Path:
    """Files as a checkpoint has them, one of them large."""
    path.mkdir()
    for name in needed_to_resume(1):
        (path / name).write_bytes(os.urandom(LARGE if name == "optimizer.pt" else 1000))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def save(bucket: Bucket, folder: Path, *, step: int) -> None:
    """Have a checkpoint committed. Raises TrainerError."""
    with CheckpointWriter(
        bucket=bucket, uri=CHECKPOINTS, fingerprint="run", keep=2, on_commit=lambda _: None
    ) as writer:
        writer.submit(folder, step=step)


ENDING: dict[str, Callable[[Proxy], AbstractContextManager[None]]] = {
    "is away": lambda proxy: proxy.away(),
    "is silent": lambda proxy: proxy.toxic("timeout", timeout=0),
    "resets connections": lambda proxy: proxy.toxic("reset_peer", timeout=50),
    "resets uploads": lambda proxy: proxy.toxic("limit_data", stream="upstream", bytes=LARGE // 6),
    "resets downloads": lambda proxy: proxy.toxic("limit_data", bytes=LARGE // 6),
    "loses answers": lambda proxy: proxy.toxic("limit_data", bytes=100),
}
LASTING: dict[str, Callable[[Proxy], AbstractContextManager[None]]] = {
    "answers late": lambda proxy: proxy.toxic("latency", latency=200, jitter=150),
    "takes little": lambda proxy: proxy.toxic("bandwidth", stream="upstream", rate=4000),
    "gives little": lambda proxy: proxy.toxic("bandwidth", rate=4000),
}


def disturbed(disturbance: AbstractContextManager[None], work: Callable[[], object], *, ends: bool) -> None:
    """Do the work while the store is disturbed: for a while from its beginning, or all the time."""
    with ThreadPoolExecutor(1) as pool:
        with disturbance:
            done = pool.submit(work)
            with suppress(TimeoutError):
                done.exception(timeout=SECONDS if ends else None)
        done.result()


@pytest.mark.parametrize("how", [*ENDING, *LASTING])
def test_nothing_is_lost_while_the_store(link: Link, tmp_path: Path, how: str) -> None:
    written, resumed, published = checkpoint_folder(tmp_path / "written"), tmp_path / "resumed", tmp_path / "published"
    wanted = contents(written)
    newest = committed(link.direct, CHECKPOINTS)
    step = newest[0].step + 1 if newest else 1
    uri = f"{ADAPTERS}/{step}"
    work: tuple[Callable[[], object], ...] = (
        lambda: save(link.through, written, step=step),
        lambda: fetch_newest(link.through, CHECKPOINTS, fingerprint="run", folder=resumed),
        lambda: commit(link.through, resumed, uri=uri, manifest=an_artifact_manifest),
    )
    for task in work:
        disturbed((ENDING | LASTING)[how](link.proxy), task, ends=how in ENDING)
    assert contents(resumed) == wanted
    manifest = link.direct.read_manifest(uri, ArtifactManifest)
    assert manifest
    link.direct.fetch_files(manifest.files, uri, published)
    assert contents(published) == wanted


def test_an_outage_longer_than_the_retries_leaves_the_checkpoint_before(
    link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=2))
    impatient = open_bucket(Storage(work_uri="s3://x/y", endpoint=f"http://{link.proxy.address}"))
    save(impatient, checkpoint_folder(tmp_path / "before"), step=1001)
    after = checkpoint_folder(tmp_path / "after")
    with link.proxy.toxic("limit_data", stream="upstream", bytes=LARGE // 2), pytest.raises(TrainerError) as ended:
        save(impatient, after, step=1002)
    assert ended.value.code is ExitCode.StorageUnavailable
    assert committed(link.direct, CHECKPOINTS)[0].step == 1001
    with link.proxy.away(), pytest.raises(TrainerError) as ended:
        fetch_newest(impatient, CHECKPOINTS, fingerprint="run", folder=tmp_path / "resumed")
    assert ended.value.code is ExitCode.StorageUnavailable
    save(impatient, after, step=1002)
    found = fetch_newest(link.direct, CHECKPOINTS, fingerprint="run", folder=tmp_path / "resumed")
    assert found
    assert found.step == 1002
