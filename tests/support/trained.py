"""Small real runs for the tests of train: short Spider rows, a few steps, prepared by the trainer's own prepare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_trainer.contract.layout import TRAINING_LOG, artifact_uri
from lora_trainer.contract.run import RunFile
from lora_trainer.prepare import prepare
from lora_trainer.storage import Bucket, open_bucket
from lora_trainer.telemetry import ProgressServer

from tests.ports import free_port
from tests.support.attempts import Attempt
from tests.support.object_store import ObjectStore
from tests.support.runs import BUCKET, FIRST_LAYERS, run_file

STEPS = 6


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """A run whose prepared set is in the bucket."""

    run: RunFile
    digest: str
    bucket: Bucket
    folder: Path

    @property
    def artifact(self) -> str:
        """URI of the adapter."""
        return artifact_uri(self.run, self.digest)

    @property
    def training_log(self) -> list[dict[str, Any]]:
        """What was published of the steps, in their order."""
        lines = self.bucket.read(f"{self.artifact}/{TRAINING_LOG}").decode().splitlines()
        return [json.loads(line) for line in lines]

    def attempt(self, number: int, *, fresh: bool = False) -> Attempt:
        """Start the trainer, in a process that imports its libraries itself where it is to be `fresh`."""
        return Attempt(self.run, folder=self.folder / f"attempt-{number}", port=free_port(), fresh=fresh)

    def node(self, node: int, *, attempt: int, rendezvous: int) -> Attempt:
        """Start the trainer as one of several nodes, which meet on the port `rendezvous` of this machine."""
        options = ("--attempt", str(attempt), "--node", str(node), "--rendezvous-port", str(rendezvous))
        folder = self.folder / f"attempt-{attempt}-node-{node}"
        return Attempt(self.run, folder=folder, port=free_port(), options=options)


def small_run(store: ObjectStore, folder: Path, *, name: str, **blocks: Mapping[str, Any]) -> SmallRun:
    """Prepare a run of STEPS steps of 2 rows, with dropout and accumulation, on the model's first layers unless
    `blocks` name another one. Credentials: see Attempt."""
    defaults: dict[str, dict[str, Any]] = {
        "identity": {"namespace": "team-a", "name": name, "uid": f"uid-{name}"},
        "model": {"name": FIRST_LAYERS, "maxSeqLength": 144},
        "lora": {"loraDropout": 0.1},
        "training": {
            "maxSteps": STEPS,
            "learningRate": 1e-3,
            "perDeviceTrainBatchSize": 1,
            "gradientAccumulationSteps": 2,
            "saveSteps": 2,
        },
        # Answers of a model in 4 bits take a processor half a second a token: runs of which nobody reads any have none.
        "evaluation": {"maxRows": 4, "samples": 0},
        "output": {"uri": f"s3://{BUCKET}/adapters/{name}"},
    }
    merged = {block: defaults.get(block, {}) | dict(blocks.get(block, {})) for block in defaults.keys() | blocks.keys()}
    run = run_file(endpoint=store.endpoint, **merged)
    bucket = open_bucket(run.storage)
    result = prepare(run, bucket=bucket, progress=ProgressServer(port=0), scratch=folder / "prepare")
    return SmallRun(run=run, digest=result.run_digest, bucket=bucket, folder=folder)
