"""`python -m tests.families.train FOLDER`: trains the model in FOLDER/model for two steps, as a run does.

Prints one line of JSON: what was seen, or the error.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.training import Method
from lora_trainer.model import compute_dtype, peak_memory_gib
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize
from lora_trainer.prepared import SCHEMAS, TRAIN_ROWS, Prepared, write_rows
from lora_trainer.sizing import size_run
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training import first_batch
from lora_trainer.training.loop import build_loop
from lora_trainer.training.start import load_trainable

from tests.support.runs import run_file

ROWS = 120
LENGTHS = (20, 200)
"""Tokens of the shortest and the longest row."""
PROMPT_TOKENS = 10
IDS = range(100, 40_000)
"""Tokens that are no special ones."""
STEPS = 2
SEED = 7
ENDS_AND_PADS = Prepared.model_construct(eos_token_id=2, pad_token_id=0)


def write_data(folder: Path) -> DataSize:
    """Prepared rows of random tokens, of mixed lengths."""
    generator = random.Random(SEED)
    rows = [generator.choices(IDS, k=generator.randint(*LENGTHS)) for _ in range(ROWS)]
    masks = [[0] * PROMPT_TOKENS + [1] * (len(row) - PROMPT_TOKENS) for row in rows]
    schema = SCHEMAS[Method.SFT].trained
    folder.mkdir(parents=True)
    columns = {"input_ids": rows, "completion_mask": masks}
    write_rows(folder / TRAIN_ROWS, [pa.RecordBatch.from_pydict(columns, schema=schema)], schema=schema)
    lengths = [len(row) for row in rows]
    return DataSize(lengths=lengths, tokens=sum(lengths))


def choose(run: RunFile, folder: Path, data: DataSize, *, loader: Loader | None, forced: bool) -> Chosen:
    """What prepare would choose, with this loader, or packed where it would not pack."""
    shape = model_shape(json.loads((folder / "model/config.json").read_text()))
    with patch("lora_trainer.packing._together", return_value=None) if forced else nullcontext():
        _, chosen = size_run(run, shape, data)
    return compute_dtype(run, chosen.model_copy(update={"loader": loader or chosen.loader}))


def train(run: RunFile, chosen: Chosen, folder: Path) -> Iterator[dict[str, Any]]:
    """Two steps, and what is seen on the way."""
    yield {"packing": chosen.packing, "loader": chosen.loader, "reason": chosen.reasons[0]}
    progress = ProgressServer(port=0)
    model, tokenizer = load_trainable(
        run, chosen, base=folder / "model", prepared=ENDS_AND_PADS, scratch=folder, progress=progress
    )
    yield {"class": type(model.get_base_model()).__name__} | layers([name for name, _ in model.named_modules()])
    yield {"quantised": sum(type(part).__name__ == "Linear4bit" for part in model.get_base_model().modules())}
    trainer = build_loop(run, chosen, model=model, tokenizer=tokenizer, scratch=folder, events=[])
    with first_batch_seen() as fields:
        yield {"first_batch": fields}
        trainer.train()
    yield {"losses": [round(log["loss"], 4) for log in trainer.state.log_history if "loss" in log]}
    learned = (part for name, part in model.named_parameters() if "lora_B" in name)
    yield {"learned": all(bool((part != 0).any()) for part in learned)}
    yield {"gib": round(peak_memory_gib(run.accelerator.kind), 2)}


def layers(names: list[str]) -> dict[str, Any]:
    """The names of the layers that have an adapter, and how many they are."""
    adapted = [name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")]
    return {"adapted": sorted({name.rpartition(".")[2] for name in adapted}), "adapters": len(adapted)}


@contextmanager
def first_batch_seen() -> Iterator[dict[str, Any]]:
    """What the trainer says of the first batch."""
    fields: dict[str, Any] = {}
    with patch.object(first_batch.log, "info", lambda _, extra: fields.update(extra["fields"])):
        yield fields


def main() -> None:
    """One model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loader", type=Loader, choices=[*Loader])
    parser.add_argument("--forced", action="store_true", help="pack where a run would not")
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    folder = arguments.folder.resolve()
    run = run_file(
        model={"name": "s3://team-a/models/small", "maxSeqLength": 256, "quantization": "NF4"},
        training={"maxSteps": STEPS, "learningRate": 1e-3},
        accelerator={"kind": AcceleratorKind.CPU} if arguments.cpu else {"kind": "GPU", "memoryGiB": 80},
    )
    data, found = write_data(folder / "prepared"), dict[str, Any]()
    try:
        chosen = choose(run, folder, data, loader=arguments.loader, forced=arguments.forced)
        for seen in train(run, chosen, folder):
            found |= seen
    except Exception as error:
        logging.exception("%s", folder)
        found |= {"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-1500:]}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
