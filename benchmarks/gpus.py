"""Tokens per second of one GPU and of two, written to results/gpus.json.

    python -m benchmarks.gpus --tokenizer FOLDER    on a machine with two GPUs and versitygw in the cluster's cache

Both are runs of the trainer's own command line over the same rows, in turns, with as many rows per GPU and optimizer
step; checkpoints go to a real S3 server. Weights are random and of Llama 3.2 1B's shape; every row is full.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.libraries import versions

from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET
from tests.support.trained import small_run

RESULTS = Path(__file__).parent / "results/gpus.json"
SHAPE = "llama-1b"
ROUNDS = 2
STEPS = 40
WARM_UP = 15
"""Steps that are not counted: kernels are compiled in them."""
ROW_TOKENS = 2048
ROWS = 600
TRAINING = {"maxSteps": STEPS, "learningRate": 1e-4, "perDeviceTrainBatchSize": 8, "gradientAccumulationSteps": 4}


def steps(store: ObjectStore, folder: Path, *, name: str, gpus: int) -> list[dict[str, Any]]:
    """The log's entries of all steps of one run."""
    small = small_run(
        store,
        folder,
        name=name,
        model={"name": f"s3://{BUCKET}/models/{SHAPE}", "maxSeqLength": ROW_TOKENS},
        lora={"loraDropout": 0.0},
        training=TRAINING | {"saveSteps": STEPS},
        dataset={"overlength": "Truncate"},
        evaluation={"maxRows": 8, "samples": 0, "prompts": [], "exactMatch": None},
        parallelism={"gpus": gpus},
        accelerator={"kind": "GPU", "memoryGiB": 139},
    )
    with small.attempt(1) as attempt:
        ended = attempt.wait()
    if ended.code != ExitCode.Succeeded:
        raise RuntimeError(ended.log)
    if len(ended.steps) != STEPS:
        raise RuntimeError(f"{len(ended.steps)} of {STEPS} steps were done")
    return ended.steps


def seconds_per_step(found: Sequence[dict[str, Any]]) -> float:
    """After the warm-up."""
    ends = [datetime.fromisoformat(step["time"]).timestamp() for step in found]
    return (ends[-1] - ends[WARM_UP - 1]) / (STEPS - WARM_UP)


def write_rows(path: Path) -> None:
    """Texts that fill a row each."""
    words = ["select", "count", "from", "singer", "where", "age", "order", "by", "name", "group"]
    generator = random.Random(0)
    texts = (" ".join(generator.choices(words, k=2 * ROW_TOKENS)) for _ in range(ROWS))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def measure(folder: Path, tokenizer: Path) -> list[dict[str, Any]]:
    """Both, in turns."""
    rounds = []
    with object_store(folder / "s3", buckets=(BUCKET,)) as store:
        os.environ.update(store.environment)
        bucket = store.folder / BUCKET
        make = [sys.executable, "-m", "benchmarks.vram", "make-model", SHAPE, bucket / "models" / SHAPE, tokenizer]
        subprocess.run(make, check=True)
        (bucket / "data").mkdir()
        write_rows(bucket / "data/train.jsonl")
        for number in range(ROUNDS):
            one, two = (
                steps(store, folder / f"{gpus}-{number}", name=f"gpus-{gpus}-{number}", gpus=gpus) for gpus in (1, 2)
            )
            figures = {"one": seconds_per_step(one), "two": seconds_per_step(two)}
            losses = {"one": one[-1]["loss"], "two": two[-1]["loss"]}
            rounds.append({"seconds_per_step": figures, "last_loss": losses})
            print(rounds[-1], flush=True)
    return rounds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gpus-") as folder:
        rounds = measure(Path(folder), arguments.tokenizer)
    speedup = median(2 * each["seconds_per_step"]["one"] / each["seconds_per_step"]["two"] for each in rounds)
    import torch

    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "versions": versions(),
        "shape": SHAPE,
        "tokens_per_gpu_and_step": TRAINING["perDeviceTrainBatchSize"]
        * TRAINING["gradientAccumulationSteps"]
        * ROW_TOKENS,
        "steps": STEPS - WARM_UP,
        "rounds": rounds,
        "speedup": round(speedup, 2),
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"two GPUs train {speedup:.2f} times as many tokens per second as one; written to {arguments.out}")


if __name__ == "__main__":
    main()
