"""A model, a data set and an accelerator that the tests of sizing choose numbers for."""

from __future__ import annotations

from typing import Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize
from lora_trainer.sizing import size_run

from benchmarks.vram import SHAPES
from tests.support.runs import run_file

LLAMA_8B = SHAPES["llama-8b"]
SHAPE = model_shape(LLAMA_8B)
GPU = {"kind": "GPU", "memoryGiB": 80}
DATA = DataSize(lengths=[600, 150, 150] + 997 * [300], tokens=300_000)


def chosen(*, data: DataSize = DATA, **blocks: Any) -> Chosen:
    """What is chosen for a run of Llama 3 8B's shape, on 80 GiB unless other blocks say so."""
    blocks = {"training": {"maxSteps": None}, "accelerator": GPU} | blocks
    return size_run(run_file(**blocks), SHAPE, data)[1]


def offering(gib: float | None) -> dict[str, Any]:
    """An accelerator with so much memory."""
    return {"kind": "GPU"} | ({"memoryGiB": gib} if gib else {})


def batch(**options: Any) -> tuple[int, int]:
    """Micro-batch and accumulation that are chosen."""
    numbers = chosen(**options)
    return numbers.per_device_train_batch_size, numbers.gradient_accumulation_steps
