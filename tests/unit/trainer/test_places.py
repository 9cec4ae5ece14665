"""Data sets on a hub: which files a URI means, at which commit, and what a hub's refusals become."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.places import Place, find
from lora_trainer.data.report import BadRows
from lora_trainer.data.sources import read_records
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket
from obstore.store import MemoryStore

from tests.support.stub_server import Answer, Request, stub_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/rows"
FILES = {
    "README.md": b"# Rows",
    "dataset_infos.json": b"{}",
    "data/train-00000.jsonl": b'{"text": "train 0"}\n',
    "data/train-00001.jsonl": b'{"text": "train 1"}\n',
    "data/test-00000.jsonl": b'{"text": "test 0"}\n',
}


class DatasetHub:
    """A hub with one data set."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        path = request.path.partition("?")[0]
        if path.startswith(f"/api/datasets/{NAME}"):
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
            return Answer(status=200, body=body.encode(), headers={"Content-Type": "application/json"})
        name = path.removeprefix(f"/datasets/{NAME}/resolve/{COMMIT}/")
        if name not in FILES:
            return Answer(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return Answer(status=200, body=FILES[name], headers={"ETag": f'"{abs(hash(name))}"', "X-Repo-Commit": COMMIT})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    answers = DatasetHub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stub_server(answers) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield answers


def place(uri: str, split: str | None = None) -> Place:
    return find(uri, Bucket(open_store=lambda _: MemoryStore()), split=split)


def texts(uri: str, scratch: Path, split: str | None = None) -> list[str]:
    records = read_records(place(uri, split), uri=uri, scratch=scratch, bad=BadRows())
    found = [record.columns["text"] for record in records]
    assert list(scratch.iterdir()) == [], "files are removed once they are read"
    return found


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/train-00001.jsonl", ["train 1"]),
        ("/data", ["train 0", "train 1"]),
        ("/data/train-*.jsonl", ["train 0", "train 1"]),
        ("/data/*.jsonl", ["test 0", "train 0", "train 1"]),
        ("/data/test-00000.jsonl", ["test 0"]),
        ("", ["train 0", "train 1"]),
    ],
)
def test_a_file_a_folder_a_pattern_or_all(path: str, expected: list[str], tmp_path: Path) -> None:
    assert texts(f"hf://datasets/{NAME}{path}", tmp_path) == expected


@pytest.mark.usefixtures("hub")
def test_a_split(tmp_path: Path) -> None:
    assert texts(f"hf://datasets/{NAME}", tmp_path, "test") == ["test 0"]
    assert texts(f"hf://datasets/{NAME}/data/*.jsonl", tmp_path, "train") == ["train 0", "train 1"]
    with pytest.raises(
        TrainerError, match="has no split validation: by the names of its files it has test, train"
    ) as no:
        texts(f"hf://datasets/{NAME}", tmp_path, "validation")
    assert no.value.code is ExitCode.DatasetNotFound


def test_the_revision_is_pinned_to_its_commit(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    uri = f"hf://datasets/{NAME}@refs%2Fconvert%2Fparquet/data/test-00000.jsonl"
    assert place(uri).revision == COMMIT
    assert hub.asked[0].path.startswith(f"/api/datasets/{NAME}/revision/refs%2Fconvert%2Fparquet")
    assert texts(uri, tmp_path) == ["test 0"]
    downloads = [request for request in hub.asked if "/resolve/" in request.path]
    assert downloads
    assert all(f"/resolve/{COMMIT}/" in request.path for request in downloads)
    sent = {name.lower(): value for name, value in downloads[0].headers.items()}
    assert sent["authorization"] == "Bearer hf_token"


@pytest.mark.usefixtures("hub")
def test_a_path_that_the_data_set_does_not_have() -> None:
    with pytest.raises(TrainerError, match=r"no dataset at hf://datasets/owner/rows/none") as caught:
        place(f"hf://datasets/{NAME}/none")
    assert caught.value.code is ExitCode.DatasetNotFound


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer(status=403, headers={"X-Error-Code": "GatedRepo"}), ExitCode.DatasetAccessDenied, "refused access"),
        (Answer(status=401), ExitCode.DatasetAccessDenied, "used no token"),
        (Answer(status=401, headers={"X-Error-Code": "RepoNotFound"}), ExitCode.DatasetNotFound, "or it is private"),
        (Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"}), ExitCode.DatasetNotFound, "at revision v9"),
        (Answer(status=500), ExitCode.HubUnavailable, "HTTP 500"),
    ],
)
def test_what_a_hub_may_answer(monkeypatch: pytest.MonkeyPatch, answer: Answer, code: ExitCode, words: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with stub_server(lambda _: answer) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(TrainerError) as caught:
            place(f"hf://datasets/{NAME}@v9/data")
    assert caught.value.code is code
    assert words in caught.value.message
    assert "dataset" in (caught.value.remedy or "")
