"""A run that is sized too large on purpose, as the operator carries it on: results/oom.json, under "cpu" or "gpu".

    python -m benchmarks.oom [--tokenizer FOLDER]    as root, with Go; a machine with a GPU needs the folder, and one of
                                                     120 to 180 GiB

The trainer's own processes: an attempt that ends with OutOfMemory is followed by one with half the micro-batch, until
one succeeds. What it must have done is what a run does that names that micro-batch from the start: the same losses,
step by step. On a GPU the class claims memory that the card has not, and torch runs out of the card's: with the
activations of every layer of Llama 1B kept, lora_trainer/memory.py predicts 195 GiB for 96 rows of 2048 tokens and
98 GiB for 48, and a card of 139 GiB has room for the half only. Elsewhere the process may take little more than the run
with the right size took, and torch runs out of the host's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lora_trainer.contract.batch import shrunk_batch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.libraries import versions

from benchmarks.gpu_machine import CLAIM, make_model, read_machine, volume
from benchmarks.gpu_rows import ROW_TOKENS, chats
from tests.ports import free_port
from tests.support.attempts import Attempt, Ended
from tests.support.demo_assets import ensure_demo_assets
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET
from tests.support.trained import SmallRun, small_run

RESULTS = Path(__file__).parent / "results/oom.json"
SHAPE = "llama-1b"
STEPS = 2
MORE_THAN_RIGHT = 1.05
"""Address space of the run on a host, over the peak of one with the right size."""
SAME = 0.01
"""Of losses: a GPU adds in another order when micro-batches are others."""
FULL_ROWS = 240
"""Of ROW_TOKENS tokens, for a GPU: two steps of 96, and what is held out."""
ON_CPU = {
    "micro_batch": 16,
    "right": 8,
    "accelerator": {"kind": "CPU"},
    "model": {"maxSeqLength": 144},
    "dataset": {},
    "evaluation": {"maxRows": 2},
}
ON_GPU = {
    "micro_batch": 96,
    "right": 48,
    "accelerator": {"kind": "GPU", "memoryGiB": 2000},
    "model": {"claimRef": {"name": CLAIM, "path": SHAPE}, "maxSeqLength": ROW_TOKENS},
    "dataset": {"overlength": "Truncate"},
    "evaluation": {"maxRows": 1},
}


def prepared(store: ObjectStore, folder: Path, case: Mapping[str, Any], *, name: str, micro_batch: int) -> SmallRun:
    """A run that names its micro-batch, in steps of as many rows as the run that is too large."""
    return small_run(
        store,
        folder / name,
        name=name,
        model=case["model"],
        accelerator=case["accelerator"],
        lora={"loraDropout": 0, "useGradientCheckpointing": "Disabled"},
        training={
            "maxSteps": STEPS,
            "packing": False,
            "perDeviceTrainBatchSize": micro_batch,
            "gradientAccumulationSteps": case["micro_batch"] // micro_batch,
        },
        dataset=case["dataset"],
        evaluation=case["evaluation"] | {"samples": 0, "prompts": [], "exactMatch": None},
    )


def trained(small: SmallRun, *, attempt: int, shrinks: int, limit: int | None = None) -> tuple[Ended, int]:
    """How an attempt ended, and the peak of its address space in bytes; it may take `limit`."""
    options = ("--attempt", str(attempt), "--oom-shrinks", str(shrinks))
    peak = 0
    with Attempt(small.run, folder=small.folder / f"attempt-{attempt}", port=free_port(), options=options) as running:
        if limit:
            resource.prlimit(running.pid, resource.RLIMIT_AS, (limit, limit))
        while running.runs:
            peak = max(peak, address_space(running.pid))
            time.sleep(0.2)
        return running.wait(), peak


def address_space(pid: int) -> int:
    """Its peak so far, in bytes; 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmPeak:")), 0)


def carried_on(
    small: SmallRun, case: Mapping[str, Any], *, limit: int | None
) -> Iterator[tuple[dict[str, Any], Ended]]:
    """Every attempt until one ends in another way than by memory."""
    for shrinks in range(case["micro_batch"].bit_length()):
        micro_batch, accumulation = shrunk_batch(case["micro_batch"], 1, times=shrinks)
        began = time.monotonic()
        ended, _ = trained(small, attempt=shrinks + 1, shrinks=shrinks, limit=limit)
        yield (
            {
                "micro_batch": micro_batch,
                "accumulation": accumulation,
                "exit_code": ended.code,
                "message": ended.outcome.message if ended.outcome else None,
                "seconds": round(time.monotonic() - began, 1),
                "losses": [step["loss"] for step in ended.steps],
            },
            ended,
        )
        if ended.code != ExitCode.OutOfMemory:
            return


@contextmanager
def place(arguments: argparse.Namespace, *, gpu: str | None) -> Iterator[tuple[ObjectStore, Path]]:
    """An object store with rows, and a folder. On a GPU the model is a large one on a volume, else the demo's in the
    store."""
    with tempfile.TemporaryDirectory(prefix="bench-oom-") as temporary:
        work = Path(temporary)
        with object_store(work / "s3", buckets=(BUCKET,)) as store, volume(arguments.models) as models:
            os.environ.update(store.environment)
            bucket = store.folder / BUCKET
            (bucket / "data").mkdir()
            rows = bucket / "data/train.jsonl"
            if gpu:
                rows.write_text("".join(json.dumps(row) + "\n" for row in islice(chats("full rows"), FULL_ROWS)))
                make_model(SHAPE, models / SHAPE, arguments.tokenizer)
            else:
                assets = ensure_demo_assets()
                shutil.copytree(assets.model, bucket / "models/smollm2")
                shutil.copy(assets.train, rows)
            yield store, work


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder with any tokenizer, for the model with random weights")
    parser.add_argument("--models", type=Path, help="folder for that model, on a RAM disk, say")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    gpu = read_machine().gpu
    case = ON_GPU if gpu else ON_CPU
    with place(arguments, gpu=gpu) as (store, work):
        right = prepared(store, work, case, name="right", micro_batch=case["right"])
        reference, peak = trained(right, attempt=1, shrinks=0)
        losses = [step["loss"] for step in reference.steps]
        limit = None if gpu else round(MORE_THAN_RIGHT * peak)
        print(f"{case['right']} rows from the start: exit {reference.code}, losses {losses}", flush=True)
        small = prepared(store, work, case, name="too-large", micro_batch=case["micro_batch"])
        attempts = []
        for told, ended in carried_on(small, case, limit=limit):
            attempts.append(told)
            print(json.dumps(told), flush=True)
            if ended.code not in (ExitCode.Succeeded, ExitCode.OutOfMemory):
                print(ended.log[-3000:])
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "accelerator": gpu or "CPU",
        "versions": versions(),
        "model": SHAPE if gpu else "SmolLM2-135M-Instruct",
        "limit_bytes": limit,
        "losses_of_the_right_size": losses,
        "attempts": attempts,
    }
    both = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    both["gpu" if gpu else "cpu"] = result
    arguments.out.write_text(json.dumps(both, indent=1) + "\n")
    require_carried_on(attempts, losses)


def require_carried_on(attempts: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """End with a sentence where the attempts did not do what the run of the right size did."""
    codes = [attempt["exit_code"] for attempt in attempts]
    if codes != [ExitCode.OutOfMemory] * (len(codes) - 1) + [ExitCode.Succeeded] or len(codes) == 1:
        sys.exit(
            f"The attempts ended with {codes}: one or more with {ExitCode.OutOfMemory:d} and then one with 0 should."
        )
    told = attempts[-1]["losses"]
    if len(told) != len(losses) or not all(map(partial(math.isclose, rel_tol=SAME), told, losses)):
        sys.exit(f"The losses are {told} and should be {losses}.")


if __name__ == "__main__":
    main()
