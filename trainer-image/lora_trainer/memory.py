"""Peak accelerator memory of a training step, predicted from shapes alone. Pure.

    bytes = weights + 10.6 x LoRA parameters + 19.4 x H x T + the larger of
        K x layer x T + 0.17 GiB + 33.7 KB x min(T, 4096)    the loss, over the activations of K kept layers
        layer x T + 0.05 GiB                                 the gradient of a layer, recomputed
    layer = 3.6 x I + 8.4 x (H + Q)
    with FastModel (see packing.py), whose attention has a mask:  layer + 1.8 x I, bytes + 2 x T x T

for T tokens per forward pass, I the width of the MLP, H of the hidden state and Q of all queries. What is held of 4-bit
weights is joined by the two matrices of an MLP that are in 16 bits for a moment.
Fitted by `python -m benchmarks.vram_fit` to the 51 points of benchmarks/results/vram.json (five Llama shapes of 135M to
8B parameters on one H200, torch 2.11.0; six of the points with FastModel): leave-one-out error 0.4 % in the median, at
most 2.3 % too low and 3.7 % too high.
It predicts what torch's allocator reserves; the process holds a CUDA context beside it.
"""

from __future__ import annotations

from typing import assert_never

from lora_trainer.contract.outcome import Loader
from lora_trainer.contract.run import EIGHT_BIT_OPTIMIZERS, AcceleratorKind, RunFile
from lora_trainer.contract.spec.lora import GradientCheckpointing
from lora_trainer.model_shape import ModelShape

GIB = 2**30
BYTES_PER_4BIT_PARAMETER = 0.5 + 1 / 64
"""NF4 and the scale of each block of 64."""
BYTES_PER_LORA_PARAMETER = 10.55
"""Weight and gradient in 32 bits, and two Adam moments in 8."""
MORE_BYTES_OF_32_BIT_MOMENTS = 6
LAYER_BYTES_PER_TOKEN_OF_MLP_WIDTH = 3.57
LAYER_BYTES_PER_TOKEN_OF_HIDDEN_AND_QUERIES = 8.41
FAST_MODEL_LAYER_BYTES_PER_TOKEN_OF_MLP_WIDTH = 1.79
FAST_MODEL_BYTES_PER_PAIR_OF_TOKENS = 2.01
STEP_BYTES_PER_TOKEN_OF_HIDDEN = 19.35
LOSS_BYTES = 0.167 * GIB
LOSS_BYTES_PER_TOKEN = 33_700
MOST_TOKENS_OF_A_LOSS = 4096
"""Unsloth cuts the loss of longer batches into parts."""
RECOMPUTATION_BYTES = 0.047 * GIB
CPU_PROCESS_BYTES = 2.18 * GIB
"""Memory of a CPU process for libraries and their caches, in addition to that. Measured once, with the demo's run."""
CONTEXT_BYTES = 0.85 * GIB
"""`python -m benchmarks.vram context` measured 0.82 on an H200."""
MARGIN = 1.05
"""Predictions may be too low by this factor. Four whole runs of packed and full rows (benchmarks/results/gpu.json),
which are not among the points of the fit, used 3.9 % more to 4.2 % less than was predicted."""


def memory_bytes(
    shape: ModelShape, run: RunFile, *, tokens: int, kept_layers: int, loader: Loader = Loader.FAST_LANGUAGE_MODEL
) -> float:
    """Predicted peak with `tokens` tokens per forward pass and the activations of `kept_layers` layers kept."""
    narrow = shape.hidden + shape.heads * shape.head_size
    layer = LAYER_BYTES_PER_TOKEN_OF_MLP_WIDTH * shape.intermediate
    layer += LAYER_BYTES_PER_TOKEN_OF_HIDDEN_AND_QUERIES * narrow
    mask = 0.0
    if loader is Loader.FAST_MODEL:
        layer += FAST_MODEL_LAYER_BYTES_PER_TOKEN_OF_MLP_WIDTH * shape.intermediate
        mask = FAST_MODEL_BYTES_PER_PAIR_OF_TOKENS * tokens**2
    loss = LOSS_BYTES + LOSS_BYTES_PER_TOKEN * min(tokens, MOST_TOKENS_OF_A_LOSS)
    moment = max(kept_layers * layer * tokens + loss, layer * tokens + RECOMPUTATION_BYTES)
    # PyTorch's own recomputation leaves each layer's input on the accelerator; Unsloth's takes it to the host.
    inputs = (
        2 * shape.hidden * tokens * shape.layers if run.gradient_checkpointing is GradientCheckpointing.ENABLED else 0
    )
    return standing_bytes(shape, run) + STEP_BYTES_PER_TOKEN_OF_HIDDEN * shape.hidden * tokens + mask + moment + inputs


def generation_bytes(shape: ModelShape, run: RunFile, *, sequences: int, tokens: int) -> float:
    """Predicted peak while the model generates `sequences` answers at once: keys and values in 16 bits of every layer
    for `tokens` tokens each, the prompt's included."""
    return standing_bytes(shape, run) + 2 * 2 * shape.layers * shape.kv_heads * shape.head_size * tokens * sequences


def standing_bytes(shape: ModelShape, run: RunFile) -> float:
    """Memory that is held all the time: weights, the adapter with its optimizer, and the process itself."""
    in_4bit = run.model.in_4bit
    weights = weight_bytes(shape, load_in_4bit=in_4bit) + unpacked_bytes(shape, load_in_4bit=in_4bit)
    adapter = bytes_per_lora_parameter(run) * shape.lora_parameters(run.lora)
    return weights + adapter + beside_bytes(run.accelerator.kind)


def weight_bytes(shape: ModelShape, *, load_in_4bit: bool) -> float:
    """The base model's weights; the embedding stays in 16 bits."""
    per_linear = BYTES_PER_4BIT_PARAMETER if load_in_4bit else 2
    return per_linear * shape.linear_parameters + 2 * shape.embedding_parameters


def unpacked_bytes(shape: ModelShape, *, load_in_4bit: bool) -> float:
    """The two matrices of an MLP that are unpacked to 16 bits while 4-bit weights are used."""
    return 2 * 2 * shape.intermediate * shape.hidden if load_in_4bit else 0


def needed_bytes(predicted: float, kind: AcceleratorKind) -> float:
    """Memory that a class must offer for a predicted peak."""
    return MARGIN * predicted + (CONTEXT_BYTES if kind is AcceleratorKind.GPU else 0)


def bytes_per_lora_parameter(run: RunFile) -> float:
    """Weight, gradient and moments."""
    return BYTES_PER_LORA_PARAMETER + (0 if run.optim in EIGHT_BIT_OPTIMIZERS else MORE_BYTES_OF_32_BIT_MOMENTS)


def beside_bytes(kind: AcceleratorKind) -> float:
    """Memory of the process itself, which counts on a CPU class."""
    match kind:
        case AcceleratorKind.GPU:
            return 0
        case AcceleratorKind.CPU:
            return CPU_PROCESS_BYTES
        case _:
            assert_never(kind)
