"""Real parts for the trainer's tests: SmolLM2's folder, Spider's rows and an S3 server that holds both.

Each of pytest's workers has an S3 server and processors of its own.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.exits import ExitCode
from xdist.scheduler import LoadScopeScheduling

from tests.support.attempts import Ended
from tests.support.demo_assets import DemoAssets, ensure_demo_assets
from tests.support.first_layers import write_first_layers
from tests.support.keys import private_pem
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET, FIRST_LAYERS, WHOLE_MODEL
from tests.support.trained import SmallRun, small_run
from tests.support.trainer_process import fork_servers

TRAINED = "trained"
OF_TRAINED = {"test_exports.py", "test_gate.py", "test_resume.py", "test_train.py", "test_verify.py"}
"""Files whose tests use the run `trained`."""
SIGNING_SEED = 7
"""Of the key that signs the run `trained`."""


def pytest_configure() -> None:
    """Divide the processors among pytest's workers: the threads of two trainers on the same ones hinder each other."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        mine = slice(int(worker.removeprefix("gw")), None, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, available[mine] or available)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with groups of few tests: they train for minutes, and the worker that has the last group works alone."""
    unlisted = {item.path.name for item in items if TRAINED in item.fixturenames} - OF_TRAINED  # pyright: ignore - pytest.Item lacks it
    if unlisted:
        raise pytest.UsageError(f"Tests of {', '.join(sorted(unlisted))} use `{TRAINED}`: add them to OF_TRAINED.")
    groups = {item: group_of(item.path.name) for item in items}
    tests = Counter(groups.values())
    items.sort(key=lambda item: (groups[item] != TRAINED, tests[groups[item]], groups[item]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give the tests of one group to one worker."""
    return GroupScheduling(config, log)


class GroupScheduling(LoadScopeScheduling):
    """A file is a group, and the files that share the run `trained` are one: each worker would train it again."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.partition("::")[0]).name)


def group_of(file: str) -> str:
    """The group of a file's tests."""
    return TRAINED if file in OF_TRAINED else file


@pytest.fixture(scope="session", autouse=True)
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stages that tests start are forked from processes that have imported the libraries."""
    with fork_servers(tmp_path_factory.mktemp("fork-servers")):
        yield


@pytest.fixture(scope="session")
def assets() -> DemoAssets:
    return ensure_demo_assets()


@pytest.fixture(scope="session")
def store(assets: DemoAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server with WHOLE_MODEL, FIRST_LAYERS, and the rows at data/train.jsonl and data/eval.jsonl."""
    with object_store(tmp_path_factory.mktemp("s3"), buckets=(BUCKET,)) as running:
        bucket = running.folder / BUCKET
        shutil.copytree(assets.model, path_of(running, WHOLE_MODEL))
        write_first_layers(assets.model, path_of(running, FIRST_LAYERS))
        (bucket / "data").mkdir()
        shutil.copy(assets.train, bucket / "data/train.jsonl")
        shutil.copy(assets.evaluation, bucket / "data/eval.jsonl")
        yield running


def path_of(store: ObjectStore, uri: str) -> Path:
    """Where the server keeps what is at the URI."""
    return store.folder / uri.removeprefix("s3://")


@pytest.fixture(scope="session")
def first_layers(store: ObjectStore) -> Path:
    """The folder of FIRST_LAYERS."""
    return path_of(store, FIRST_LAYERS)


@pytest.fixture
def credentials(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server, with its credentials in the environment as the trainer's pods have them."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that was trained in one attempt."""

    small: SmallRun
    ended: Ended


@pytest.fixture(scope="session")
def trained(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """An uninterrupted and signed run, whose credentials and key are in the environment from then on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        patch.setenv(SIGNING_KEY_VARIABLE, private_pem(SIGNING_SEED).decode())
        folder = tmp_path_factory.mktemp("trained")
        small = small_run(
            store, folder, name="uninterrupted", output={"signing": {"keySecretRef": {"name": "signing"}}}
        )
        # All others are compared with this one, which runs as it does in a pod.
        with small.attempt(1, fresh=True) as attempt:
            ended = attempt.wait()
        assert ended.code == ExitCode.Succeeded, ended.log
        yield Trained(small=small, ended=ended)
