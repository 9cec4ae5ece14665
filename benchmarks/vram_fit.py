"""Fits the model of lora_trainer/memory.py to the points of results/vram.json: `python -m benchmarks.vram_fit` prints
its coefficients and leave-one-out errors. Needs no GPU."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lora_trainer.contract.outcome import Loader
from lora_trainer.memory import GIB, MOST_TOKENS_OF_A_LOSS, unpacked_bytes, weight_bytes
from lora_trainer.model_shape import model_shape

from benchmarks.vram import RESULTS, SHAPES, Point, measured_bytes, read, read_point

ROUNDS = 10
"""Of a fit. It settles after two or three."""
TERMS = (
    "LoRA parameters",
    "H x T",
    "T x T with FastModel",
    "I x T of a layer",
    "(H + Q) x T of a layer",
    "I x T of a layer with FastModel",
    "min(T, 4096) in the loss",
    "1 in the loss",
    "1 in a recomputed layer",
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the coefficients are multiplied with."""

    weights: float
    """Bytes of the weights, in 4 bits and in 16 while they are computed with, which are known."""
    loss: list[float]
    """Values of TERMS while the loss is computed, over all kept layers."""
    recomputed: list[float]
    """Values of TERMS while a layer is recomputed."""


def terms(point: Point) -> Terms:
    """The peak is one of two moments."""
    shape, tokens, kept = model_shape(SHAPES[point.shape]), point.tokens, point.kept_layers
    fast_model = point.loader is Loader.FAST_MODEL
    wide, narrow = shape.intermediate * tokens, (shape.hidden + shape.heads * shape.head_size) * tokens
    layer = (wide, narrow, wide if fast_model else 0)
    step = (shape.lora_parameters(point.run.lora), shape.hidden * tokens, tokens**2 if fast_model else 0)
    in_4bit = point.load_in_4bit
    return Terms(
        weights=weight_bytes(shape, load_in_4bit=in_4bit) + unpacked_bytes(shape, load_in_4bit=in_4bit),
        loss=[*step, *(kept * value for value in layer), min(tokens, MOST_TOKENS_OF_A_LOSS), 1, 0],
        recomputed=[*step, *layer, 0, 0, 1],
    )


def coefficients(points: Sequence[Point], measured: Sequence[float]) -> list[float]:
    """Least squares of the relative errors: the best of several guesses of how small a layer must be for the loss to
    be each point's peak, corrected until every point's moment is the one with the larger sum."""
    known = [terms(point) for point in points]
    loss, recomputed = np.array([of.loss for of in known]), np.array([of.recomputed for of in known])
    weights, layer = np.array([of.weights for of in known]), recomputed[:, TERMS.index("I x T of a layer")]
    kept = np.array([point.kept_layers > 0 for point in points])
    best = None
    for size in np.unique(layer):
        at_loss, solution = kept | (layer <= size), np.zeros(len(TERMS))
        for _ in range(ROUNDS):
            matrix = np.where(at_loss[:, None], loss, recomputed) / np.array(measured)[:, None]
            scale = np.maximum(np.abs(matrix).max(axis=0), np.finfo(float).tiny)
            solution = np.linalg.lstsq(matrix / scale, 1 - weights / measured, rcond=None)[0] / scale
            at_loss = loss @ solution >= recomputed @ solution
        errors = (weights + np.maximum(loss @ solution, recomputed @ solution)) / measured - 1
        best = min(best or (np.inf, ()), (float(errors @ errors), tuple(solution)))
    assert best, "no points"
    return list(best[1])


def predicted(point: Point, fitted: Sequence[float]) -> float:
    """Bytes by the fitted model."""
    of = terms(point)
    sums = (sum(value * by for value, by in zip(moment, fitted, strict=True)) for moment in (of.loss, of.recomputed))
    return of.weights + max(sums)


def left_out(points: Sequence[Point], measured: Sequence[float]) -> list[float]:
    """The relative error of each point's prediction by a fit to all others."""
    errors = []
    for index, point in enumerate(points):
        others = [number for number in range(len(points)) if number != index]
        fitted = coefficients([points[number] for number in others], [measured[number] for number in others])
        errors.append(predicted(point, fitted) / measured[index] - 1)
    return errors


def main() -> None:
    """Print the coefficients, and each point's error when it is left out of the fit."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    entries = read(RESULTS)
    found = [read_point(entry) for entry in entries]
    measured = [measured_bytes(entry, point) for entry, point in zip(entries, found, strict=True)]
    for name, value in zip(TERMS, coefficients(found, measured), strict=True):
        print(f"{value:14.2f}  bytes per {name}")
    errors = left_out(found, measured)
    for point, peak, error in zip(found, measured, errors, strict=True):
        print(f"{error:+7.1%}  {peak / GIB:6.2f} GiB  {point}")
    sizes = [abs(error) for error in errors]
    print(f"left out: median {statistics.median(sizes):.1%}, worst {max(sizes):.1%}, most under {-min(errors):.1%}")


if __name__ == "__main__":
    main()
