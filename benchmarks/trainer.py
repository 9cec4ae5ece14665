"""`make bench-trainer`: seconds per step of our pipeline against a bare script, written to results/trainer.json.

Both train SmolLM2 in 4 bits on the same batches of Spider's rows, in turns, on the same CPU with the same environment
variables; ours with its progress, its checkpoints to a real S3 server, and everything else it does. Only the ratio says
something: seconds are those of the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.libraries import environment
from lora_trainer.model import compute_dtype
from lora_trainer.prepared import TRAIN_ROWS, read_prepared

from tests.support.demo_assets import DemoAssets, ensure_demo_assets
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET
from tests.support.trained import SmallRun, small_run

RESULTS = Path(__file__).parent / "results/trainer.json"
ROUNDS = 3
STEPS = 34
WARM_UP = 4
"""Steps that are not counted: the first ones fill caches."""
LIMIT = 1.05
TRAINING = {"maxSteps": STEPS, "learningRate": 2e-4, "saveSteps": 30}
"""A checkpoint is among the steps that are counted, as a run of 600 steps makes about twenty by default."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was done."""

    loss: float
    time: float
    """Seconds, of the clock of its process."""


def seconds_per_step(steps: list[Step]) -> float:
    """After the warm-up."""
    if len(steps) != STEPS:
        raise RuntimeError(f"{len(steps)} of {STEPS} steps were done")
    return (steps[-1].time - steps[WARM_UP - 1].time) / (STEPS - WARM_UP)


def ours(store: ObjectStore, folder: Path, number: int) -> tuple[SmallRun, list[Step]]:
    """A run of the real trainer, and its steps as its log tells them."""
    lora, name = {"loraDropout": 0.0}, f"round-{number}"
    small = small_run(store, folder, name=name, lora=lora, training=TRAINING, model={"maxSeqLength": 256})
    with small.attempt(1) as attempt:
        ended = attempt.wait()
    if ended.code != ExitCode.Succeeded:
        raise RuntimeError(ended.log)
    return small, [
        Step(loss=line["loss"], time=datetime.fromisoformat(line["time"]).timestamp()) for line in ended.steps
    ]


def bare(small: SmallRun, model: Path, folder: Path) -> list[Step]:
    """The same batches with the bare script."""
    prepared = folder / "attempt-1/scratch/prepared"
    chosen = compute_dtype(small.run, read_prepared(prepared).result.chosen)
    training = small.run.training
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": chosen.per_device_train_batch_size,
        "gradient_accumulation_steps": chosen.gradient_accumulation_steps,
        "learning_rate": chosen.learning_rate,
        "warmup_steps": round(training.warmup_ratio * STEPS),
        "weight_decay": training.weight_decay,
        "optim": chosen.optim,
        "bf16": chosen.dtype == "bfloat16",
        "max_length": small.run.model.max_seq_length,
        "completion_only_loss": True,
        "pad_to_multiple_of": 64,
        "gradient_checkpointing": False,
        "seed": training.seed,
        "data_seed": training.seed,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    scratch = folder / "bare"
    scratch.mkdir()
    command = [sys.executable, Path(__file__).parent / "bare_trainer.py", "--model", model]
    command += ["--rows", prepared / TRAIN_ROWS, "--folder", scratch, "--settings", json.dumps(settings)]
    variables = os.environ | environment(kind=AcceleratorKind.CPU, scratch=scratch)
    output = subprocess.run(command, env=variables, cwd=scratch, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (json.loads(line) for line in output.splitlines() if line.startswith('{"step"'))
    return [Step(loss=line["loss"], time=line["time"]) for line in lines]


def measure(assets: DemoAssets, folder: Path) -> list[dict[str, float]]:
    """Seconds per step of both, in turns."""
    rounds = []
    with object_store(folder / "s3", buckets=(BUCKET,)) as store:
        os.environ.update(store.environment)
        bucket = store.folder / BUCKET
        shutil.copytree(assets.model, bucket / "models/smollm2")
        (bucket / "data").mkdir()
        shutil.copy(assets.train, bucket / "data/train.jsonl")
        for number in range(1, ROUNDS + 1):
            work = folder / f"round-{number}"
            small, our_steps = ours(store, work, number)
            bare_steps = bare(small, assets.model, work)
            require_same_batches(our_steps, bare_steps)
            figures = {"ours": seconds_per_step(our_steps), "bare": seconds_per_step(bare_steps)}
            print({name: round(seconds, 3) for name, seconds in figures.items()}, flush=True)
            rounds.append(figures)
            shutil.rmtree(work)
    return rounds


def require_same_batches(ours: list[Step], bare: list[Step]) -> None:
    """Other batches have other losses. The bare script keeps its adapter in 16 bits, so they drift apart a little."""
    pairs = list(zip(ours, bare, strict=True))
    if not all(math.isclose(mine.loss, theirs.loss, rel_tol=0.05) for mine, theirs in pairs):
        raise RuntimeError(f"not the same batches: {[(mine.loss, theirs.loss) for mine, theirs in pairs]}")


def main() -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as folder:
        rounds = measure(ensure_demo_assets(), Path(folder))
    ratio = median(each["ours"] / each["bare"] for each in rounds)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "steps": STEPS - WARM_UP,
        "rounds": [{name: round(seconds, 3) for name, seconds in each.items()} for each in rounds],
        "ratio": round(ratio, 3),
        "target": f"<= {LIMIT}",
        "reached": ratio <= LIMIT,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{ratio:.3f} of the bare script's seconds per step (target {result['target']}); written to {RESULTS}")


if __name__ == "__main__":
    main()
