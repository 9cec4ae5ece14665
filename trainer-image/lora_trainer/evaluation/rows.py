"""Base and adapter on the held-out rows: loss and token accuracy, and answers to a few questions side by side.

One row at a time, and only the logits that are scored: an evaluation must never need more memory than training did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from lora_trainer.contract.outcome import Evaluation
from lora_trainer.contract.spec.evaluation import EvaluationSpec, ExactMatchSpec
from lora_trainer.evaluation.answers import answer, as_text, exact_match
from lora_trainer.evaluation.comparison import EvaluationFile, Sample, base_and_tuned, side_by_side
from lora_trainer.prepared import Prompt, answer_end, first_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

MAX_SHOWN_TOKENS = 128
"""An answer that is only shown is cut here."""
SPARE_ANSWER_TOKENS = 16
"""An answer may be this much longer than its reference before it is cut."""
REMEASURED_ROWS = 8
"""Rows whose losses are measured again with the published adapter."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A held-out row."""

    input_ids: list[int]
    completion_mask: list[int]
    """1 for the tokens that are scored."""
    prompt_length: int
    """How many leading tokens ask for the last answer; 0 where nothing is asked."""
    prompt: str
    """The question as people read it."""
    completion: str
    """The answer as people read it."""

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens that ask for the last answer."""
        return self.input_ids[: self.prompt_length]

    @property
    def answer_ids(self) -> list[int]:
        """The tokens of the last answer, up to its end token."""
        return self.input_ids[self.prompt_length : answer_end(self.completion_mask)]

    @property
    def longest_answer(self) -> int:
        """Tokens after which an answer is cut."""
        return len(self.input_ids) - self.prompt_length + SPARE_ANSWER_TOKENS


def read_rows(path: Path, *, limit: int) -> list[Row]:
    """The first `limit` rows of a prepared set's EVAL_ROWS."""
    return [Row(**values) for values in first_rows(path, limit)]


class ExactMatches(TypedDict, total=False):
    """Fields of Evaluation."""

    answers: int
    base_exact_match: float
    exact_match: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """Sums over the scored tokens of one row, or of several."""

    loss: float
    """Negative log-likelihood in nats."""
    correct: int
    tokens: int

    @property
    def mean_loss(self) -> float:
        """Nats per scored token; 0 where no token is scored."""
        return self.loss / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one model, base or adapter, did."""

    scores: list[Score]
    """Of each row."""
    shown: list[str]
    """Answers to the first held-out prompts, for people."""
    compared: list[str]
    """Answers to held-out prompts, to be compared with their references."""
    prompts: list[str]
    """Answers to the user's own prompts."""


def evaluate(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    spec: EvaluationSpec,
    prompts: Sequence[Prompt],
    dtype: str,
) -> EvaluationFile:
    """Score all rows and answer prompts, held-out ones and the user's own, with the adapter and without."""
    base, tuned = base_and_tuned(
        model, lambda: observe(model, tokenizer, rows, spec=spec, prompts=prompts), dtype=dtype
    )
    before, after = total(base.scores), total(tuned.scores)
    return EvaluationFile(
        figures=Evaluation(
            rows=len(rows),
            base_loss=before.mean_loss,
            loss=after.mean_loss,
            base_token_accuracy=before.correct / before.tokens,
            token_accuracy=after.correct / after.tokens,
            **exact_matches(tokenizer, rows, base=base.compared, tuned=tuned.compared, spec=spec.exact_match),
        ),
        probe=probe(tokenizer, rows[0]),
        dtype=dtype,
        row_losses=tuple(score.mean_loss for score in tuned.scores[:REMEASURED_ROWS]),
        samples=tuple(
            Sample(prompt=row.prompt, reference=row.completion, base=before, adapter=after)
            for row, before, after in zip(asked(rows, spec.samples), base.shown, tuned.shown, strict=True)
        ),
        prompts=side_by_side(prompts, base=base.prompts, tuned=tuned.prompts),
    )


def observe(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    spec: EvaluationSpec,
    prompts: Sequence[Prompt],
) -> Observed:
    """Score and answers of the model as it is now."""

    def answered(some: Sequence[Row], *, limit: int | None) -> list[str]:
        lengths = [row.longest_answer if limit is None else min(limit, row.longest_answer) for row in some]
        return answer(model, tokenizer, [row.prompt_ids for row in some], max_tokens=lengths)

    compared = asked(rows, spec.exact_match.rows) if spec.exact_match else []
    return Observed(
        scores=[score(model, row) for row in rows],
        shown=answered(asked(rows, spec.samples), limit=MAX_SHOWN_TOKENS),
        compared=answered(compared, limit=None),
        prompts=answer(
            model, tokenizer, [prompt.input_ids for prompt in prompts], max_tokens=[MAX_SHOWN_TOKENS] * len(prompts)
        ),
    )


def asked(rows: Sequence[Row], count: int) -> list[Row]:
    """The first `count` rows that ask for something."""
    return [row for row in rows if row.prompt_length > 0][:count]


def exact_matches(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    base: Sequence[str],
    tuned: Sequence[str],
    spec: ExactMatchSpec | None,
) -> ExactMatches:
    """The figures of exact match; none where nothing was to be compared.

    The references are the tokens that were learned: a template may write more of an answer than its content, such as
    an empty block of reasoning.
    """
    if spec is None or not tuned:
        return {}
    references = [as_text(tokenizer, row.answer_ids) for row in asked(rows, spec.rows)]
    return {
        "answers": len(references),
        "base_exact_match": exact_match(base, references, ignore_case=spec.ignore_case),
        "exact_match": exact_match(tuned, references, ignore_case=spec.ignore_case),
    }


def probe(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """The row's prompt with all its special tokens; the whole row where every token is scored."""
    return str(tokenizer.decode(row.prompt_ids or row.input_ids))


def total(scores: Sequence[Score]) -> Score:
    """The sum of the scores."""
    return Score(
        loss=sum(score.loss for score in scores),
        correct=sum(score.correct for score in scores),
        tokens=sum(score.tokens for score in scores),
    )


def row_loss(model: PeftModel, row: Row) -> tuple[float, int]:
    """Summed loss (nats) over the scored tokens of a row, and how many they are."""
    scored = score(model, row)
    return scored.loss, scored.tokens


def score(model: PeftModel, row: Row) -> Score:
    """The score of one row. Its first token has no prediction."""
    import torch

    positions = [index for index, scored in enumerate(row.completion_mask) if scored and index > 0]
    if not positions:
        return Score(loss=0.0, correct=0, tokens=0)
    # The logits from the token before the first scored one on, without the last, which predicts nothing of the row.
    keep = len(row.input_ids) - positions[0] + 1
    ids = torch.tensor([row.input_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep, use_cache=False).logits
    scored = torch.tensor([index - positions[0] for index in positions], device=model.device)
    logits = logits[0, -keep:][scored].float()
    targets = ids[0, positions]
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return Score(loss=loss.item(), correct=int((logits.argmax(-1) == targets).sum()), tokens=len(positions))
