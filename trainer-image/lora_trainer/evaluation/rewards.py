"""Base and adapter on held-out prompts: the mean reward of their greedy answers, and a few of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lora_trainer.contract.outcome import Evaluation
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.data.questions import answer_to
from lora_trainer.evaluation.answers import answer, answer_ids, as_text, written
from lora_trainer.evaluation.comparison import EvaluationFile, Sample, base_and_tuned, side_by_side
from lora_trainer.prepared import Prompt, first_rows
from lora_trainer.rewards.panel import Panel

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class HeldOutPrompt:
    """A prompt that was not trained on."""

    prompt: str
    """What the model reads."""
    prompt_ids: list[int]
    row: str
    """What its answers are judged by."""
    question: str
    """What is asked, for people."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one model, base or adapter, answered."""

    answers: list[str]
    """The first ones, for people."""
    reward: float | None
    """Mean over all answers to which a reward applies; None where there is none."""
    prompts: list[str]
    """Answers to the user's own prompts."""


def read_prompts(path: Path, *, limit: int) -> list[HeldOutPrompt]:
    """The first `limit` rows of a prepared set's EVAL_ROWS."""
    return [HeldOutPrompt(**values) for values in first_rows(path, limit)]


def evaluate_rewards(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[HeldOutPrompt],
    *,
    panel: Panel,
    longest: int,
    spec: EvaluationSpec,
    prompts: Sequence[Prompt],
    dtype: str,
) -> EvaluationFile:
    """Answer all prompts in at most `longest` tokens and judge the answers, with the adapter and without."""

    def judged() -> Judged:
        asked = [row.prompt_ids for row in held_out]
        answered = answer_ids(model, tokenizer, asked, max_tokens=[longest] * len(asked))
        given = [
            answer_to(row.row, text=written(tokenizer, ids), ids=ids)
            for row, ids in zip(held_out, answered, strict=True)
        ]
        own = answer(model, tokenizer, [prompt.input_ids for prompt in prompts], max_tokens=[longest] * len(prompts))
        shown = [as_text(tokenizer, ids) for ids in answered[: spec.samples]]
        return Judged(answers=shown, reward=mean_reward(panel.rewards(given)), prompts=own)

    base, tuned = base_and_tuned(model, judged, dtype=dtype)
    return EvaluationFile(
        figures=Evaluation(rows=len(held_out), base_reward=base.reward, reward=tuned.reward),
        probe=held_out[0].prompt,
        dtype=dtype,
        samples=tuple(
            Sample(prompt=row.question, base=before, adapter=after)
            for row, before, after in zip(held_out[: spec.samples], base.answers, tuned.answers, strict=True)
        ),
        prompts=side_by_side(prompts, base=base.prompts, tuned=tuned.prompts),
    )


def mean_reward(rewards: Sequence[float | None]) -> float | None:
    """The mean of the rewards that there are, as TRL takes it; None where there is none."""
    given = [reward for reward in rewards if reward is not None]
    return fmean(given) if given else None
