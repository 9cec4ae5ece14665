"""How far the losses that verification measures are from those that training measured: results/verification.json.

    python -m benchmarks.verification --model FOLDER       on a machine with a GPU (without one: CPU figures)

LOSS_TOLERANCE of verify.py rests on it. Each case is a whole run of the command line, from rows to a published adapter:
training measures through Unsloth, verification through transformers and PEFT in a new process. `base` is the loss
before training, for scale.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_trainer.contract.layout import EVALUATION, MANIFEST
from lora_trainer.contract.run import RunFile
from lora_trainer.libraries import versions
from lora_trainer.prepare import prepare
from lora_trainer.storage import open_bucket
from lora_trainer.telemetry import ProgressServer

from benchmarks.gpu_machine import Machine, read_machine
from tests.ports import free_port
from tests.support.attempts import Attempt
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET, WHOLE_MODEL, run_file

RESULTS = Path(__file__).parent / "results/verification.json"
ROWS = 400
STEPS = 60
CASES: dict[str, dict[str, Mapping[str, Any]]] = {
    "NF4, packed": {},
    "NF4, not packed": {"training": {"packing": False}},
    "16 bits, packed": {"model": {"quantization": "None"}},
    "NF4, float16": {"model": {"dtype": "float16"}},
    "NF4, one step": {"training": {"maxSteps": 1}},
    "NF4, DPO": {"training": {"method": "DPO"}, "dataset": {"uri": f"s3://{BUCKET}/data/pairs.jsonl"}},
}


def write_rows(folder: Path) -> None:
    """Sums in words, as chats and as pairs: short answers that a small model can learn, in rows of mixed lengths."""
    generator, chats, pairs = random.Random(7), [], []
    for _ in range(ROWS):
        numbers = [generator.randint(1, 99) for _ in range(generator.randint(2, 30))]
        question = f"Add {', '.join(map(str, numbers))}."
        answer, wrong = (f"The sum is {sum(numbers) + off}." for off in (0, generator.randint(1, 9)))
        chats.append({"messages": [message("user", question), message("assistant", answer)]})
        pairs.append({"prompt": question, "chosen": answer, "rejected": wrong})
    folder.mkdir()
    for name, rows in (("train", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def message(role: str, content: str) -> dict[str, str]:
    """One message of a chat."""
    return {"role": role, "content": content}


def measure(store: ObjectStore, folder: Path, *, name: str, machine: Machine) -> dict[str, Any]:
    """One run and what its artifact says."""
    place, case = name.lower().replace(", ", "-").replace(" ", "-"), CASES[name]
    defaults: dict[str, Mapping[str, Any]] = {
        "identity": {"namespace": "team-a", "name": "run", "uid": place},
        "training": {"maxSteps": STEPS, "learningRate": 5e-4},
        "evaluation": {"maxRows": 32},
        "output": {"uri": f"s3://{BUCKET}/adapters/{place}"},
        "accelerator": {"kind": "GPU", "memoryGiB": machine.memory_gib} if machine.gpu else {"kind": "CPU"},
    }
    blocks = {key: {**defaults.get(key, {}), **case.get(key, {})} for key in defaults.keys() | case.keys()}
    run = run_file(endpoint=store.endpoint, **blocks)
    artifact = play(run, folder / place)
    bucket = open_bucket(run.storage)
    manifest, evaluation = (json.loads(bucket.read(f"{artifact}/{file}")) for file in (MANIFEST, EVALUATION))
    figures = evaluation["figures"]
    return {
        "case": name,
        "base": round(figures["baseLoss"], 4),
        "trained": round(sum(evaluation["rowLosses"]) / len(evaluation["rowLosses"]), 4),
        "difference": round(manifest["verification"]["lossDifference"], 5),
    }


def play(run: RunFile, folder: Path) -> str:
    """Prepare, and train in a process as a pod does. Returns the adapter's URI."""
    prepare(run, bucket=open_bucket(run.storage), progress=ProgressServer(port=0), scratch=folder / "prepare")
    with Attempt(run, folder=folder / "train", port=free_port(), fresh=True) as running:
        return running.wait().result.artifact.uri


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a small chat model")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), help="cases")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    machine, found = read_machine(), []
    with (
        tempfile.TemporaryDirectory(prefix="bench-verification-") as work,
        object_store(Path(work) / "s3", buckets=(BUCKET,)) as store,
    ):
        os.environ.update(store.environment)
        bucket = store.folder / BUCKET
        shutil.copytree(arguments.model, bucket / WHOLE_MODEL.removeprefix(f"s3://{BUCKET}/"))
        write_rows(bucket / "data")
        for name in arguments.only:
            found.append(measure(store, Path(work), name=name, machine=machine))
            print(found[-1], flush=True)
            write(arguments.out, machine=machine, cases=found)


def write(out: Path, *, machine: Machine, cases: list[dict[str, Any]]) -> None:
    """Write the cases that were measured so far."""
    result = {"date": datetime.now(UTC).date().isoformat(), "gpu": machine.gpu, "versions": versions(), "cases": cases}
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
