"""The machine that the GPU benchmarks run on: its card, and a volume with models of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_trainer.contract.run import PVC_MOUNT_ROOT

CLAIM = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the runs are told of this machine, and what is computed with."""

    gpu: str | None
    memory_gib: int | None
    matmul_tflops: float | None


def read_machine() -> Machine:
    """The GPU of this machine, in a process of its own: this one must hold no memory of it."""
    code = "from benchmarks.gpu_machine import card; import json; print(json.dumps(card()))"
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    return Machine(**json.loads(output.splitlines()[-1]))


def card() -> dict[str, Any]:
    """Name, memory and speed of the first GPU; nothing of a machine without one."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "memory_gib": None, "matmul_tflops": None}
    size, products = 8192, 30
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        torch.mm(left, right)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(products):
        torch.mm(left, right)
    end.record()
    torch.cuda.synchronize()
    tflops = 2 * size**3 * products / (start.elapsed_time(end) / 1000) / 1e12
    return {"gpu": torch.cuda.get_device_name(), "memory_gib": card_memory_gib(), "matmul_tflops": round(tflops)}


def card_memory_gib() -> int:
    """Memory of the first GPU."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory // 2**30


def own_card() -> Machine:
    """The GPU of this process, which uses it; its speed is not measured. Ends the process where there is none."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU, and torch sees none on this machine.")
    return Machine(gpu=torch.cuda.get_device_name(), memory_gib=card_memory_gib(), matmul_tflops=None)


@contextmanager
def volume(folder: Path | None) -> Iterator[Path]:
    """A folder for models where pods have their volumes mounted, in `folder` (of a RAM disk, say)."""
    PVC_MOUNT_ROOT.mkdir(parents=True, exist_ok=True)
    claim = PVC_MOUNT_ROOT / CLAIM
    with tempfile.TemporaryDirectory(prefix="bench-gpu-models-", dir=folder) as models:
        claim.unlink(missing_ok=True)  # of a run that was killed
        claim.symlink_to(models)
        try:
            yield Path(models)
        finally:
            claim.unlink()


def make_model(shape: str, folder: Path, tokenizer: Path) -> None:
    """Random weights, once."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.vram", "make-model", shape, folder, tokenizer], check=True)
