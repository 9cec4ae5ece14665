"""Measures the loss on the held-out rows during training. selection.py decides what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.training import Method
from lora_trainer.evaluation.comparison import computed_in
from lora_trainer.evaluation.pairs import pair_loss, read_pairs
from lora_trainer.evaluation.rows import read_rows, row_loss
from lora_trainer.prepared import EVAL_ROWS

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows, and how they are scored."""

    rows: Sequence[Any]
    """Rows or pairs, as `row_loss` takes them."""
    row_loss: Callable[[PeftModel, Any], tuple[float, int]]
    """Summed loss of one row, and over how many tokens or pairs."""
    dtype: str
    """Compute type that training uses."""
    interrupted: Callable[[], bool]
    """Whether the pod was asked to stop."""

    def loss(self, model: PeftModel) -> float | None:
        """The mean, one row at a time; None where the pod was asked to stop before the last."""
        import torch

        model.eval()
        # Not inference_mode: what a layer caches there could not be used by the training steps that follow.
        with torch.no_grad(), computed_in(model, self.dtype):
            losses = [self.row_loss(model, row) for row in takewhile(lambda _: not self.interrupted(), self.rows)]
        model.train()
        if self.interrupted():
            return None
        return sum(loss for loss, _ in losses) / sum(count for _, count in losses)


def held_out_rows(folder: Path, run: RunFile, *, dtype: str, interrupted: Callable[[], bool]) -> HeldOut:
    """The held-out rows of the prepared set in `folder`, scored as the run's method trains."""
    path, limit, training = folder / EVAL_ROWS, run.evaluation.max_rows, run.training
    match training.method:
        case Method.SFT:
            return HeldOut(rows=read_rows(path, limit=limit), row_loss=row_loss, dtype=dtype, interrupted=interrupted)
        case Method.DPO:
            loss = partial(pair_loss, beta=training.dpo_settings.beta)
            return HeldOut(rows=read_pairs(path, limit=limit), row_loss=loss, dtype=dtype, interrupted=interrupted)
        case Method.GRPO:
            # The API server refuses evaluations during training for it: it learns from rewards, and has no such loss.
            return HeldOut(rows=(), row_loss=row_loss, dtype=dtype, interrupted=interrupted)
        case _:
            assert_never(training.method)
