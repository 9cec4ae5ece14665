"""Whether the trainer chooses the fastest micro-batch and kept layers that fit: writes results/sweep.json.

    python -m benchmarks.sweep --tokenizer FOLDER    on a machine with a GPU; points that the results have are kept

For each cap on memory, what sizing.py chooses for a class of that size is measured against every other micro-batch with
the layers that sizing.py would keep for it, and against more layers than its margin allows, until memory runs out. All
points take the same packed rows of mixed lengths and the same tokens per optimizer step, with one loaded model.

The cap is that of torch's allocator. Libraries that ask the driver still see the whole card: Unsloth's loss takes parts
of up to 4 GiB and its offloading a second buffer, which a nearly full small card may not have. That can only favour the
points beyond the choice.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.errors import TrainerError
from lora_trainer.libraries import environment
from lora_trainer.memory import CONTEXT_BYTES, GIB
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize, sequence_tokens
from lora_trainer.sizing import EFFECTIVE_BATCH, size_run

from benchmarks.gpu import describe
from benchmarks.gpu_machine import make_model, own_card
from benchmarks.gpu_rows import ROW_TOKENS, SEED, mixed_length
from benchmarks.gpu_watch import Window
from benchmarks.vram import SHAPES
from tests.support.runs import run_file

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback

RESULTS = Path(__file__).parent / "results/sweep.json"
MICRO_BATCHES = (1, 2, 4, 8)
WARM_UP = 2
TARGET = 0.97
"""Of the best point's speed."""
BEYOND = 4
"""Kept layers of one row that are tried at a time beyond the margin: as much memory as one layer of four rows takes."""

Entry = dict[str, Any]
"""A point in the results."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained."""

    shape: str
    rows: Sequence[Sequence[int]]
    steps: int
    """That are timed."""

    def sized(self, cap: float, *, micro_batch: int | None = None) -> tuple[RunFile, Chosen]:
        """A run of which only the class's memory is told, and perhaps the micro-batch. Raises DoesNotFit."""
        named = {"perDeviceTrainBatchSize": micro_batch} if micro_batch else {}
        run = run_file(
            model={"name": f"s3://models/{self.shape}", "maxSeqLength": ROW_TOKENS, "quantization": "NF4"},
            training={"maxSteps": WARM_UP + self.steps} | named,
            accelerator={"kind": "GPU", "memoryGiB": cap},
        )
        lengths = [len(row) for row in self.rows]
        data = DataSize(lengths=lengths, tokens=sum(lengths))
        return run, size_run(run, model_shape(SHAPES[self.shape]), data)[1]


@dataclass(frozen=True, kw_only=True)
class Live:
    """A model that was loaded once, and what it is trained on."""

    run: RunFile
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    folder: Path


def make_rows(steps: int) -> list[list[int]]:
    """Random tokens in rows of mixed lengths, half as many again as the steps take."""
    generator, rows = random.Random(SEED), []
    left = 1.5 * steps * EFFECTIVE_BATCH * ROW_TOKENS
    while left > 0:
        rows.append([generator.randrange(1000, 30000) for _ in range(mixed_length(generator))])
        left -= len(rows[-1])
    return rows


# --- one point ----------------------------------------------------------------------------------------------------


def load_live(workload: Workload, *, cap: float, base: Path, tokenizer: Path, folder: Path) -> Live:
    """The model, made where there is none, with its adapter: as the trainer does it, in the same order."""
    from lora_trainer.model import add_adapter, compute_dtype, load

    run, chosen = workload.sized(cap)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make_model, workload.shape, base, tokenizer)
        dtype = compute_dtype(run, chosen).dtype
        import unsloth  # noqa: F401 - takes as long as making the model
    made.result()
    model, encoder = load(
        run, folder=base, dtype=dtype, loader=chosen.loader, sequence_tokens=sequence_tokens(run, chosen)
    )
    from datasets import Dataset

    masks = [[0] * (len(row) // 3) + [1] * (len(row) - len(row) // 3) for row in workload.rows]
    rows = Dataset.from_dict({"input_ids": workload.rows, "completion_mask": masks})
    # Keeping a layer makes the flag of the layers' class a property, here before anything is compiled for that class.
    model = add_adapter(model, run, kept_layers=1)
    return Live(run=run, model=model, tokenizer=encoder, rows=rows, folder=folder)


def keep_layers(model: PeftModel, kept: int) -> None:
    """Have a model keep the activations of so many layers, as if its adapter had been made with them.

    get_peft_model's checkpoint_skip_layers only calls skip_checkpointing, last of all. That marks layers, whose flag
    then reads False whatever sets it. No function takes marks away, but a layer without the attribute reads its flag
    again (Unsloth's replan_auto_offload_for_trainer removes it like this). The buffers for offloaded activations learn
    in their first pass how many layers are recomputed: a trainer resets them at its end, but not if it is abandoned.
    """
    from unsloth.models._utils import skip_checkpointing
    from unsloth_zoo import gradient_checkpointing
    from unsloth_zoo.block_swap import find_decoder_layers

    layers = find_decoder_layers(model)
    for layer in layers:
        layer.__dict__.pop("_unsloth_skip_checkpoint", None)
    marked = len(skip_checkpointing(model, kept))
    if marked != kept:
        raise RuntimeError(f"{marked} layers are kept and should be {kept}")
    gradient_checkpointing.reset_unsloth_gradient_checkpointing_buffers()


def take_steps(live: Live, chosen: Chosen, *, event: TrainerCallback) -> None:
    """As the trainer takes them; `event` is called at each."""
    from lora_trainer.methods.sft import build_trainer

    loop = {"model": live.model, "tokenizer": live.tokenizer, "rows": live.rows, "folder": live.folder}
    build_trainer(live.run, chosen=chosen, callbacks=[event], **loop).train()


def train(live: Live, chosen: Chosen) -> Entry:
    """Take the steps. Figures of those after the warm-up."""
    import torch
    from transformers import TrainerCallback

    ends: list[tuple[float, int]] = []

    class Stopwatch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            torch.cuda.synchronize()
            ends.append((time.monotonic(), int(state.num_input_tokens_seen)))  # which are not padding

    held = torch.cuda.memory_allocated()
    take_steps(live, chosen, event=Stopwatch())
    timed = [(end - start, after - before) for (start, before), (end, after) in pairwise(ends[WARM_UP - 1 :])]
    return {
        # The median: a step with a shape that was not seen before may compile something.
        "tokens_per_second": round(statistics.median(tokens / seconds for seconds, tokens in timed)),
        "step_seconds": [round(seconds, 3) for seconds, _ in timed],
        "tokens_per_step": round(statistics.mean(tokens for _, tokens in timed)),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
        "held_before_gib": round(held / GIB, 2),
    }


def measure(live: Live, chosen: Chosen, *, cap: float) -> Entry:
    """Figures of one point, or why there are none. A card of `cap` GiB holds a context beside torch's memory."""
    import torch
    from lora_trainer.model import release_memory

    live.model.zero_grad(set_to_none=True)  # of a point that ran out of memory
    release_memory()
    share = (cap * GIB - CONTEXT_BYTES) / torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    torch.cuda.reset_peak_memory_stats()
    try:
        keep_layers(live.model, chosen.kept_layers)
        return train(live, chosen)
    except Exception as error:
        # Compilers wrap torch.OutOfMemoryError into errors of their own.
        if "out of memory" in str(error).lower():
            return {"out_of_memory": True}
        print(traceback.format_exc(), flush=True)
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


# --- the sweep ----------------------------------------------------------------------------------------------------


def configuration(chosen: Chosen) -> Entry:
    """What distinguishes a point."""
    rows, accumulation = chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps
    kept = {"kept_layers": chosen.kept_layers, "optim": chosen.optim}
    return {"micro_batch": rows, "accumulation": accumulation} | kept


def speed(entry: Entry) -> int:
    """0 where a point did not fit."""
    return entry.get("tokens_per_second", 0)


def neighbours(workload: Workload, cap: float) -> list[Chosen]:
    """The choice, then what sizing.py makes of every other micro-batch that fits."""
    found = [workload.sized(cap)[1]]
    for rows in MICRO_BATCHES:
        if rows != found[0].per_device_train_batch_size:
            try:
                found.append(workload.sized(cap, micro_batch=rows)[1])
            except TrainerError as error:
                print(f"micro-batch {rows} is left out: {error}", flush=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Measures the points that the results lack; they are written anew after each."""

    live: Live
    layers: int
    began: float
    out: Path
    result: Entry

    def measured(self, chosen: Chosen, cap: float) -> Entry:
        """The entry of a point, from the results or anew."""
        wanted, points = configuration(chosen), self.result["caps"][f"{cap:g}"]["points"]
        # What fits into less memory does the same with more.
        others = [entry for key, each in self.result["caps"].items() if float(key) < cap for entry in each["points"]]
        known = [each for each in [*points, *filter(speed, others)] if each.items() >= wanted.items()]
        entry = next((each for each in known if "failed" not in each), None)
        if entry is None:
            entry = wanted | {"measured_at_gib": cap} | measure(self.live, chosen, cap=cap)
            print(f"{time.monotonic() - self.began:5.0f} s  {json.dumps(entry)}", flush=True)
        points[:] = [each for each in points if not each.items() >= wanted.items()] + [entry]
        self.write()
        return entry

    def beyond(self, chosen: Chosen, cap: float, *, points: int) -> None:
        """More kept layers than the margin allows, until they do not fit."""
        more = max(1, BEYOND // chosen.per_device_train_batch_size)
        for times in range(1, points + 1):
            kept = min(self.layers, chosen.kept_layers + times * more)
            entry = self.measured(chosen.model_copy(update={"kept_layers": kept}), cap)
            if kept == self.layers or not speed(entry):
                return

    def take(self, cap: float, found: Sequence[Chosen]) -> None:
        """The choice, its neighbours, and what the margin costs the choice and the fastest of the neighbours."""
        part = self.result["caps"].setdefault(f"{cap:g}", {"points": []})
        part["chosen"] = configuration(found[0])
        speeds = [speed(self.measured(chosen, cap)) for chosen in found]
        self.beyond(found[0], cap, points=2)
        if len(found) > 1:
            self.beyond(found[speeds.index(max(speeds[1:]), 1)], cap, points=1)
        best = max(part["points"], key=speed)
        part["best"] = {key: best[key] for key in part["chosen"]}
        part["ratio"] = round(speeds[0] / max(1, speed(best)), 3)
        self.write()

    def write(self) -> None:
        """The results so far."""
        self.out.write_text(json.dumps(self.result, indent=1) + "\n")


def sweep(arguments: argparse.Namespace, scratch: Path) -> Entry:
    """The results of all caps."""
    began = time.monotonic()
    card = own_card()
    result: Entry = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"caps": {}}
    if result.setdefault("shape", arguments.shape) != arguments.shape:
        sys.exit(f"{arguments.out} has results of {result['shape']}: name another file with --out.")
    workload = Workload(shape=arguments.shape, rows=make_rows(WARM_UP + arguments.steps), steps=arguments.steps)
    found = {cap: neighbours(workload, cap) for cap in sorted(arguments.caps)}
    base = (arguments.models or scratch) / workload.shape
    live = load_live(workload, cap=max(found), base=base, tokenizer=arguments.tokenizer, folder=scratch / "trainer")
    print(f"{time.monotonic() - began:5.0f} s  loaded", flush=True)
    result |= describe(card, Window(warm_up=WARM_UP))
    # Compile without a cap. Where no layer is kept, each goes through both ways: without gradients, then with them.
    rehearsal = found[max(found)][0].model_copy(update={"kept_layers": 0, "max_steps": WARM_UP + 1})
    print(json.dumps({"rehearsal": measure(live, rehearsal, cap=math.inf)}), flush=True)
    layers = model_shape(SHAPES[workload.shape]).layers
    sweeping = Sweep(live=live, layers=layers, began=began, out=arguments.out, result=result)
    for cap, choices in found.items():
        sweeping.take(cap, choices)
    return result


def table(result: Entry) -> str:
    """Markdown."""
    lines = []
    for cap, part in result["caps"].items():
        lines += [f"### {result['shape']}, {cap} GiB: {part.get('ratio', 0):.1%} of the best", ""]
        lines += ["| | micro-batch | kept layers | optimizer | tokens/s | peak GiB |", "|---" * 6 + "|"]
        for entry in sorted(part["points"], key=lambda entry: (entry["micro_batch"], entry["kept_layers"])):
            marks = [name for name in ("chosen", "best") if name in part and entry.items() >= part[name].items()]
            cells = [" and ".join(marks), *(entry[key] for key in ("micro_batch", "kept_layers", "optim"))]
            why = "out of memory" if "out_of_memory" in entry else "failed"
            cells += [f"{speed(entry):,}", entry["peak_gib"]] if speed(entry) else [why, ""]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    parser.add_argument("--models", type=Path, help="folder where the model is, or is made and left")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--caps", nargs="+", type=float, default=[24, 40], help="GiB of the simulated cards")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a point")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
        os.environ.update(environment(kind=AcceleratorKind.GPU, scratch=Path(scratch)) | {"HF_HUB_OFFLINE": "1"})
        result = sweep(arguments, Path(scratch))
    print(table(result))
    if slow := [cap for cap, part in result["caps"].items() if part.get("ratio", 0) < TARGET]:
        sys.exit(f"The choice is more than {1 - TARGET:.0%} slower than the best that fits into {', '.join(slow)} GiB.")


if __name__ == "__main__":
    main()
