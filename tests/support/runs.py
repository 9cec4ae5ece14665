"""Run files for the trainer's tests: a complete one, and the demo's with any field changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_trainer.contract.run import RunFile

BUCKET = "team-a"
WHOLE_MODEL = f"s3://{BUCKET}/models/smollm2"
FIRST_LAYERS = f"s3://{BUCKET}/models/smollm2-first-layers"
"""See tests/support/first_layers.py."""


def run_file(*, endpoint: str | None = None, **blocks: Mapping[str, Any]) -> RunFile:
    """A run on CPU in the bucket team-a. `blocks` are merged over it: run_file(model={"maxSeqLength": 512})."""
    document: dict[str, dict[str, Any]] = {
        "identity": {"namespace": "team-a", "name": "text-to-sql", "uid": "6c4a1d3e"},
        "model": {"name": WHOLE_MODEL, "maxSeqLength": 512},
        "lora": {},
        "training": {"maxSteps": 4},
        "dataset": {"uri": f"s3://{BUCKET}/data/train.jsonl"},
        "evaluation": {"maxRows": 8, "samples": 1},
        "output": {"uri": f"s3://{BUCKET}/adapters"},
        "parallelism": {},
        "storage": {"workUri": f"s3://{BUCKET}/work"} | ({"endpoint": endpoint} if endpoint else {}),
        "accelerator": {"kind": "CPU"},
    }
    unknown = set(blocks) - set(document)
    assert not unknown, f"no such block of a run file: {unknown}"
    merged = {name: value | dict(blocks.get(name, {})) for name, value in document.items()}
    return RunFile.model_validate(merged)
