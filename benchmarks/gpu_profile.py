"""Where the time of our own steps goes on a GPU: results/profile.json, and a table.

    python -m benchmarks.gpu_profile --tokenizer FOLDER    on a machine with a GPU

Two steps of what sizing.py chooses for the whole card, on packed rows of mixed lengths, after those that compile.
Each kernel's time is counted for the first kind in KINDS whose pattern is found in its name; the GPU is idle while no
kernel runs. The profiler slows the launching of kernels, so that idle time is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.libraries import environment

from benchmarks.gpu import describe
from benchmarks.gpu_machine import card_memory_gib, own_card
from benchmarks.gpu_watch import Window
from benchmarks.sweep import Live, Workload, configuration, keep_layers, load_live, make_rows, take_steps
from benchmarks.vram import SHAPES

RESULTS = Path(__file__).parent / "results/profile.json"
WARM_UP = 4
"""The second step compiles for sizes that vary."""
STEPS = 2
LONGEST = 25
"""Kernels that are named in the results."""
KINDS: Mapping[str, str] = {
    "attention": "flash|fmha|attention",
    "NF4 dequantisation": "dequant",
    "matrix products": "gemm|nvjet|cutlass|xmma|gemv|splitk|cublas",
    "fused Triton kernels": "^triton_",
    "cross entropy": "cross_entropy|softmax|logsumexp|nll",
    "optimizer": "multi_tensor|adam",
    "copies, casts, cats": "copy|cat|memcpy|memset|fill",
    "element-wise and reductions": "elementwise|reduce|norm",
}
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One that ran, with times in microseconds."""

    name: str
    start: float
    end: float


def kind_of(kernel: str) -> str:
    """The kind that a kernel's time is counted for."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), OTHER)


def busy_microseconds(kernels: Iterable[Kernel]) -> float:
    """Time in which at least one of them ran."""
    busy = reached = 0.0
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        busy += max(0.0, kernel.end - max(kernel.start, reached))
        reached = max(reached, kernel.end)
    return busy


def step_milliseconds(microseconds: float) -> float:
    """A step's share of what the profile counted."""
    return round(microseconds / STEPS / 1000, 2)


def times(kernels: Iterable[Kernel], name: Callable[[Kernel], str]) -> dict[str, float]:
    """Milliseconds a step of all kernels of one name, the longest first."""
    found = defaultdict[str, float](float)
    for kernel in kernels:
        found[name(kernel)] += kernel.end - kernel.start
    return {each: step_milliseconds(found[each]) for each in sorted(found, key=found.__getitem__, reverse=True)}


def figures(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Milliseconds a step: of all, of the idle GPU, of each kind, and of the longest kernels."""
    whole = max(kernel.end for kernel in kernels) - min(kernel.start for kernel in kernels)
    return {
        "step_ms": step_milliseconds(whole),
        "idle_ms": step_milliseconds(whole - busy_microseconds(kernels)),
        "kinds_ms": times(kernels, lambda kernel: kind_of(kernel.name)),
        "longest_kernels_ms": dict(islice(times(kernels, lambda kernel: kernel.name).items(), LONGEST)),
        "kernels": len(kernels) // STEPS,
    }


def profiled(live: Live, workload: Workload, *, memory: int) -> dict[str, Any]:
    """Take the steps; the figures of the last two."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    profiler = profile(activities=[ProfilerActivity.CUDA])

    class Switch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            torch.cuda.synchronize()
            if state.global_step == WARM_UP:
                profiler.start()
            elif state.global_step == WARM_UP + STEPS:
                profiler.stop()

    chosen = workload.sized(memory)[1]
    keep_layers(live.model, chosen.kept_layers)
    take_steps(live, chosen, event=Switch())
    kernels = [
        Kernel(name=event.name, start=event.time_range.start, end=event.time_range.end)
        for event in profiler.events() or []
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return configuration(chosen) | figures(kernels)


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The results."""
    card, memory = own_card(), card_memory_gib()
    workload = Workload(shape=arguments.shape, rows=make_rows(WARM_UP + STEPS), steps=WARM_UP + STEPS)
    base = (arguments.models or scratch) / workload.shape
    live = load_live(workload, cap=memory, base=base, tokenizer=arguments.tokenizer, folder=scratch / "trainer")
    told = describe(card, Window(warm_up=WARM_UP)) | {"shape": workload.shape}
    return told | profiled(live, workload, memory=memory)


def table(result: Mapping[str, Any]) -> str:
    """Markdown."""
    shares = {"idle": result["idle_ms"]} | result["kinds_ms"]
    lines = ["| | ms a step | |", "|---|---|---|"]
    lines += [f"| {kind} | {time} | {time / result['step_ms']:.1%} |" for kind, time in shares.items()]
    return "\n".join([*lines, f"| step | {result['step_ms']} | |"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    parser.add_argument("--models", type=Path, help="folder where the model is, or is made and left")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as scratch:
        os.environ.update(environment(kind=AcceleratorKind.GPU, scratch=Path(scratch)) | {"HF_HUB_OFFLINE": "1"})
        result = measure(arguments, Path(scratch))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
