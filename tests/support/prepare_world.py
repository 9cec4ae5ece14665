"""prepare on a local folder as its bucket: a tiny model, a hundred chats, and all of it a test's to break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.contract.layout import prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.prepare import prepare
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer
from obstore.store import LocalStore

from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, write_tiny_model

Rows = list[dict[str, Any]]
UNKNOWN_TOKENS = CHATML.replace("<|im_start|>", "<|start_header_id|>")
"""A template of another model."""


def conversation(number: object) -> dict[str, Any]:
    """A row of a question and its answer."""
    return {
        "messages": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}"},
        ]
    }


CHATS = [conversation(number) for number in range(100)]


def with_template(**template: str) -> dict[str, Any]:
    """Blocks of a run file that has this chat template."""
    return {"dataset": {"chatTemplate": template}}


class World:
    """A bucket with a model and a data set, and a pod's scratch folder."""

    def __init__(self, folder: Path, progress: ProgressServer) -> None:
        self.root = folder / "team-a"
        self.scratch = folder / "scratch"
        self.progress = progress
        write_tiny_model(self.root / "models/smollm2")
        self.write("data/train.jsonl", CHATS)
        self.bucket = Bucket(open_store=lambda _: LocalStore(self.root))

    def write(self, path: str, contents: Rows | str | bytes) -> None:
        """Write rows as JSON lines, or a file as it is given."""
        if isinstance(contents, list):
            contents = "".join(json.dumps(row) + "\n" for row in contents)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(contents.encode() if isinstance(contents, str) else contents)

    def prepare(self, **blocks: Any) -> PrepareResult:
        """Prepare the run of tests.support.runs with these blocks changed."""
        return self.prepare_run(run_file(**blocks))

    def prepare_run(self, run: RunFile) -> PrepareResult:
        """Prepare this run."""
        return prepare(run, bucket=self.bucket, progress=self.progress, scratch=self.scratch)

    def fetched(self, run: RunFile, folder: Path) -> Path:
        """The published set, downloaded and compared as train does it."""
        manifest = self.bucket.read_manifest(prepared_uri(run), SetManifest)
        assert manifest
        self.bucket.fetch_files(manifest.files, prepared_uri(run), folder)
        return folder


@contextmanager
def a_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in an image whose file of named templates has two of them."""
    named = {"chatml": "chatml: " + CHATML, "llama-3": UNKNOWN_TOKENS}
    (folder / "chat_templates.json").write_text(json.dumps(named))
    monkeypatch.setenv("LORA_CHAT_TEMPLATES", str(folder / "chat_templates.json"))
    with ProgressServer(port=0) as progress:
        yield World(folder, progress)
