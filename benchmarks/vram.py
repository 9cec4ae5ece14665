"""Measures the peak GPU memory of training steps, to which vram_fit.py fits the model of lora_trainer/memory.py.

    python -m benchmarks.vram measure --tokenizer FOLDER    on a machine with a GPU: writes results/vram.json
    python -m benchmarks.vram context --tokenizer FOLDER    on an idle GPU: what a process holds beside torch's memory

Every point is a process of its own that goes through the trainer's own modules: random weights of a real model's shape,
rows of exactly the stated length, two optimizer steps of two micro-batches. Points run side by side where their
predicted memory allows: memory is measured per process, and time is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.libraries import environment, versions
from lora_trainer.memory import GIB, memory_bytes, weight_bytes
from lora_trainer.model_shape import ModelShape, model_shape

RESULTS = Path(__file__).parent / "results/vram.json"
SIDE_BY_SIDE = 6
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 500000.0, "dtype": "bfloat16"}
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": LLAMA
    | {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "llama-1b": LLAMA
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-3b": LLAMA
    | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-8b": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    "mistral-7b": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 32768, "tie_word_embeddings": False},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration."""

    shape: str
    row_tokens: int = 2048
    micro_batch: int = 4
    r: int = 16
    kept_layers: int = 0
    load_in_4bit: bool = True
    loader: Loader = Loader.FAST_LANGUAGE_MODEL

    @property
    def tokens(self) -> int:
        """Tokens per forward pass."""
        return self.micro_batch * self.row_tokens

    @property
    def run(self) -> RunFile:
        """The point as a run file."""
        placeholder = {"uri": "s3://bucket/none"}
        quantization = Quantization.NF4 if self.load_in_4bit else Quantization.NONE
        return RunFile.model_validate(
            {
                "identity": {"namespace": "benchmarks", "name": self.shape, "uid": "0"},
                "model": {"name": self.shape, "maxSeqLength": self.row_tokens, "quantization": quantization},
                "lora": {"r": self.r},
                "training": {"maxSteps": 2, "learningRate": 1e-4, "optim": "adamw_8bit"},
                "dataset": placeholder,
                "evaluation": {},
                "output": placeholder,
                "storage": {"workUri": "s3://bucket/work"},
                "accelerator": {"kind": "GPU"},
            }
        )

    def predicted_gib(self, shape: ModelShape) -> float:
        """What sizing.py says."""
        return memory_bytes(shape, self.run, tokens=self.tokens, kept_layers=self.kept_layers, loader=self.loader) / GIB


def points() -> list[Point]:
    """All points: each shape over tokens, ranks, kept layers and base precision."""
    found = []
    for shape, config in SHAPES.items():
        layers = config["num_hidden_layers"]
        found += [
            Point(shape=shape, micro_batch=1),
            Point(shape=shape, micro_batch=4),
            Point(shape=shape, micro_batch=8),
            Point(shape=shape, row_tokens=512, micro_batch=4),
            Point(shape=shape, micro_batch=4, r=64),
            Point(shape=shape, micro_batch=4, kept_layers=layers),
            Point(shape=shape, micro_batch=2, kept_layers=layers // 2),
            Point(shape=shape, row_tokens=8192, micro_batch=1, kept_layers=layers // 4),
            Point(shape=shape, micro_batch=4, load_in_4bit=False),
            Point(shape=shape, micro_batch=8, loader=Loader.FAST_MODEL),
            Point(shape=shape, micro_batch=4, kept_layers=layers, loader=Loader.FAST_MODEL),
            Point(shape=shape, micro_batch=2, kept_layers=layers // 2, loader=Loader.FAST_MODEL),
        ]
    return found


# --- measuring ----------------------------------------------------------------------------------------------------


def make_model(shape: str, folder: Path, tokenizer: Path) -> None:
    """A model folder with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    for file in (*tokenizer.glob("*token*.json"), *tokenizer.glob("chat_template*")):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(SHAPES[shape] | {"max_position_embeddings": 16384}))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="5GB")


def measure_point(point: Point, base: Path, scratch: Path) -> dict[str, Any]:
    """Peak memory of one configuration, in bytes."""
    # All of these read the environment when they are imported, and Unsloth must be the first of them.
    from lora_trainer.model import add_adapter, load

    os.environ.update(environment(kind=AcceleratorKind.GPU, scratch=scratch))
    run = point.run
    model, tokenizer = load(run, folder=base, dtype="bfloat16", loader=point.loader, sequence_tokens=point.row_tokens)
    import torch
    from datasets import Dataset
    from lora_trainer.methods.sft import build_trainer

    loaded = torch.cuda.memory_allocated()
    model = add_adapter(model, run, kept_layers=point.kept_layers)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1000, 30000, (4 * point.micro_batch, point.row_tokens), generator=generator).tolist()
    trainer = build_trainer(
        run,
        chosen=Chosen(
            max_steps=2,
            learning_rate=1e-4,
            per_device_train_batch_size=point.micro_batch,
            gradient_accumulation_steps=2,
            save_steps=100,
            packing=True,
            packing_length=point.row_tokens,
            optim="adamw_8bit",
            dtype="bfloat16",
        ),
        model=model,
        tokenizer=tokenizer,
        rows=Dataset.from_dict({"input_ids": rows, "completion_mask": [[1] * len(row) for row in rows]}),
        folder=scratch / "trainer",
        callbacks=[],
    )
    trainer.train()
    free, total = torch.cuda.mem_get_info()
    return {
        "loaded_bytes": loaded,
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "beside_bytes": total - free - torch.cuda.memory_reserved(),
    }


class Budget:
    """Lets points run side by side as long as their predictions fit the card."""

    def __init__(self, gib: float) -> None:
        self._free = gib
        self._changed = threading.Condition()

    def take(self, gib: float) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= gib)
            self._free -= gib

    def give(self, gib: float) -> None:
        """Give the room back."""
        with self._changed:
            self._free += gib
            self._changed.notify_all()


def child(*arguments: str, log: Path) -> subprocess.CompletedProcess[str]:
    """This module in a process of its own."""
    with log.open("w") as stderr:
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.vram", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=False,
        )


def measure(tokenizer: Path, out: Path, gib: float, shapes: Sequence[str]) -> None:
    """All points of these shapes that the file of results lacks; it is written anew after each."""
    began, budget, lock = time.monotonic(), Budget(gib), threading.Lock()
    done = read(out)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        models = {shape: work / shape for shape in shapes}
        for shape, folder in models.items():
            child("make-model", shape, str(folder), str(tokenizer), log=work / f"{shape}.log").check_returncode()
            print(f"{time.monotonic() - began:5.0f} s  weights of {shape}", flush=True)
        wanted = [point for point in points() if point.shape in shapes]
        left = [point for point in wanted if not any(entry.items() >= asdict(point).items() for entry in done)]

        def one(numbered: tuple[int, Point]) -> None:
            number, point = numbered
            room = 1.1 * point.predicted_gib(model_shape(SHAPES[point.shape])) + 1
            budget.take(room)
            try:
                ended = child(
                    "point", json.dumps(asdict(point)), str(models[point.shape]), log=work / f"point-{number}.log"
                )
            finally:
                budget.give(room)
            line = ended.stdout.strip().rpartition("\n")[2]
            with lock:
                if ended.returncode:
                    print(f"FAILED {point}\n{(work / f'point-{number}.log').read_text()[-1500:]}", flush=True)
                    return
                result = asdict(point) | json.loads(line)
                del result["beside_bytes"]  # of all points that ran at that moment
                done.append(result)
                print(
                    f"{time.monotonic() - began:5.0f} s  {point} {result['reserved_bytes'] / GIB:.2f} GiB", flush=True
                )
                write(out, done)

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(one, enumerate(left)))


def context(tokenizer: Path) -> None:
    """Print what the process of one point holds on the card beside the memory of torch's allocator."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    idle = 2**20 * int(subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0])
    point = Point(shape="llama-1b")
    with tempfile.TemporaryDirectory() as work:
        base, log = Path(work) / point.shape, Path(work) / "log"
        child("make-model", point.shape, str(base), str(tokenizer), log=log).check_returncode()
        ended = child("point", json.dumps(asdict(point)), str(base), log=log)
        ended.check_returncode()
    held = json.loads(ended.stdout.strip().rpartition("\n")[2])["beside_bytes"]
    print(f"beside torch's memory: {(held - idle) / GIB:.2f} GiB ({idle / GIB:.2f} GiB of the idle card not counted)")


def read(path: Path) -> list[dict[str, Any]]:
    """The points of a file of results."""
    return json.loads(path.read_text())["points"] if path.exists() else []


def read_point(entry: dict[str, Any]) -> Point:
    """The configuration of a measured point."""
    known: dict[str, Any] = {field.name: entry[field.name] for field in fields(Point)}
    known["loader"] = Loader(entry["loader"])
    return Point(**known)


def measured_bytes(entry: dict[str, Any], point: Point) -> float:
    """The peak that a measurement would have had with the weights of its shape.

    Unsloth gives the embedding a row for every token of the tokenizer, which is another model's here.
    """
    weights = weight_bytes(model_shape(SHAPES[point.shape]), load_in_4bit=point.load_in_4bit)
    return entry["reserved_bytes"] - entry["loaded_bytes"] + weights


def write(out: Path, done: list[dict[str, Any]]) -> None:
    """The results so far."""
    import torch

    document = {"gpu": torch.cuda.get_device_name(), "versions": versions(), "points": done}
    out.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure all points on this machine's GPU")
    measuring.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    measuring.add_argument("--out", type=Path, default=RESULTS)
    measuring.add_argument("--memory", type=float, default=120, help="GiB of the card to use at once")
    measuring.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    alone = commands.add_parser("context", help="measure what a process holds beside torch's memory")
    alone.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    making = commands.add_parser("make-model")
    for name in ("shape", "folder", "tokenizer"):
        making.add_argument(name)
    single = commands.add_parser("point")
    single.add_argument("point")
    single.add_argument("base", type=Path)
    arguments = parser.parse_args()
    match arguments.command:
        case "measure":
            measure(arguments.tokenizer, arguments.out, arguments.memory, arguments.shapes)
        case "context":
            context(arguments.tokenizer)
        case "make-model":
            make_model(arguments.shape, Path(arguments.folder), Path(arguments.tokenizer))
        case "point":
            with tempfile.TemporaryDirectory() as scratch:
                point = read_point(json.loads(arguments.point))
                print(json.dumps(measure_point(point, arguments.base, Path(scratch))))


if __name__ == "__main__":
    main()
