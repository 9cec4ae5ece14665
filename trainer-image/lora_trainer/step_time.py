"""Predicts how the time of a training step depends on its micro-batches. Pure.

    time ~ (1 + 950 x s / T) x (1 + 0.47 x share of layers that are computed again)

for T tokens per forward pass: launching a micro-batch's kernels takes as long as the arithmetic of 950 tokens of Llama
8B. For another model, s is how much fewer parameters one of its layers has. Fitted to eight points of Llama 8B's shape
with T from 2048 to 16384 and 0 to 32 kept layers (benchmarks/results/sweep.json and gpu.json; one H200, torch 2.11.0,
packed rows), of which none is more than 5.5 % off.
"""

from __future__ import annotations

from lora_trainer.model_shape import ModelShape

TOKENS_OF_A_LAUNCH = 950
RECOMPUTATION = 0.47
FITTED_LAYER_PARAMETERS = 218_103_808
"""Of the linear layers in one decoder layer of Llama 8B."""


def relative_step_time(shape: ModelShape, *, tokens: int, kept_layers: int) -> float:
    """Time of a step, as a multiple of its arithmetic alone, with `tokens` tokens per forward pass."""
    parameters = sum(inputs * outputs for inputs, outputs in shape.projections.values())
    launch = TOKENS_OF_A_LAUNCH * FITTED_LAYER_PARAMETERS / parameters
    return (1 + launch / tokens) * (1 + RECOMPUTATION * (1 - kept_layers / shape.layers))
