"""Base and adapter on held-out pairs: how well the chosen answers are predicted, and which answer is preferred.

The reward of an answer is beta times how much more probable the adapter makes it than the base model does: what DPO
trains apart. Loss and token accuracy are those of the chosen answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.evaluation.comparison import EvaluationFile, base_and_tuned
from lora_trainer.evaluation.rows import Row, evaluate, score
from lora_trainer.prepared import Prompt, first_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

Pair = tuple[Row, Row]
"""Chosen and rejected."""


def read_pairs(path: Path, *, limit: int) -> list[Pair]:
    """The first `limit` pairs of a prepared set's EVAL_ROWS."""
    return [(_row(values, "chosen"), _row(values, "rejected")) for values in first_rows(path, limit)]


def _row(values: dict, name: str) -> Row:
    prompt_ids, answer_ids = values["prompt_ids"], values[f"{name}_ids"]
    return Row(
        input_ids=prompt_ids + answer_ids,
        completion_mask=[0] * len(prompt_ids) + [1] * len(answer_ids),
        prompt_length=len(prompt_ids),
        prompt=values["prompt"],
        completion=values[name],
    )


def evaluate_pairs(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    beta: float,
    spec: EvaluationSpec,
    prompts: Sequence[Prompt],
    dtype: str,
) -> EvaluationFile:
    """The evaluation of the chosen answers, and how far they are preferred to the rejected ones."""
    evaluation = evaluate(model, tokenizer, [chosen for chosen, _ in pairs], spec=spec, prompts=prompts, dtype=dtype)
    base, tuned = base_and_tuned(model, lambda: _leads(model, pairs), dtype=dtype)
    margins = [beta * (after - before) for before, after in zip(base, tuned, strict=True)]
    rewards = {
        "reward_accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "reward_margin": sum(margins) / len(margins),
    }
    return evaluation.model_copy(update={"figures": evaluation.figures.model_copy(update=rewards)})


def pair_loss(model: PeftModel, pair: Pair, *, beta: float) -> tuple[float, int]:
    """Log loss of the preference, ln 2 for the base model and less for an adapter that agrees; and 1, for one pair."""
    (after,) = _leads(model, [pair])
    with model.disable_adapter():
        (before,) = _leads(model, [pair])
    margin = beta * (after - before)
    return math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0), 1


def _leads(model: PeftModel, pairs: Sequence[Pair]) -> list[float]:
    """By how many nats the model finds each chosen answer more probable than the rejected one."""
    return [score(model, rejected).loss - score(model, chosen).loss for chosen, rejected in pairs]
