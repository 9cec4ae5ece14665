"""Base and adapter on the held-out rows: loss and token accuracy, and answers to a few questions side by side.

One row at a time, and only the logits that are scored: an evaluation must never need more memory than training did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow.parquet as pq
from pydantic import Field

from lora_trainer.contract.outcome import Evaluation
from lora_trainer.contract.wire import WireModel

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ANSWER_TOKENS = 128
SPARE_ANSWER_TOKENS = 16
"""An answer may be this much longer than its reference before it is cut."""


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


def read_rows(path: Path, *, limit: int) -> list[Row]:
    """The first `limit` rows of a prepared set's EVAL_ROWS."""
    batch = next(pq.ParquetFile(path).iter_batches(limit))
    return [Row(**values) for values in batch.to_pylist()]


class Sample(WireModel):
    """One held-out prompt with its reference and two answers."""

    prompt: str
    reference: str
    base: str
    adapter: str


class EvaluationFile(WireModel):
    """evaluation.json of a published adapter."""

    figures: Evaluation
    probe: str
    """A held-out prompt as the model reads it, for verification."""
    samples: Annotated[tuple[Sample, ...], Field(max_length=16)] = ()


@dataclass(frozen=True, kw_only=True)
class Score:
    """Sums over the scored tokens of all rows."""

    loss: float
    correct: int
    tokens: int


def evaluate(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, samples: int, dtype: str
) -> EvaluationFile:
    """Score all rows and answer the first `samples` prompts, with the adapter and without."""
    model.eval()
    asked = [row for row in rows if row.prompt_length > 0][:samples]
    with inference(model, dtype):
        tuned, tuned_answers = score(model, rows), answer(model, tokenizer, asked)
        with model.disable_adapter():
            base, base_answers = score(model, rows), answer(model, tokenizer, asked)
    return EvaluationFile(
        figures=Evaluation(
            rows=len(rows),
            base_loss=base.loss / base.tokens,
            loss=tuned.loss / tuned.tokens,
            base_token_accuracy=base.correct / base.tokens,
            token_accuracy=tuned.correct / tuned.tokens,
        ),
        probe=probe(tokenizer, rows[0]),
        samples=tuple(
            Sample(prompt=row.prompt, reference=row.completion, base=before, adapter=after)
            for row, before, after in zip(asked, base_answers, tuned_answers, strict=True)
        ),
    )


def probe(tokenizer: PreTrainedTokenizerBase, row: Row) -> str:
    """The row's prompt with all its special tokens; the whole row where every token is scored."""
    return str(tokenizer.decode(row.prompt_ids or row.input_ids))


@contextmanager
def inference(model: PreTrainedModel | PeftModel, dtype: str) -> Iterator[None]:
    """No gradients, and the compute type that training used."""
    import torch  # noqa: PLC0415 - Unsloth must have been imported before

    with torch.inference_mode(), torch.autocast(model.device.type, getattr(torch, dtype)):
        yield


def score(model: PeftModel, rows: Sequence[Row]) -> Score:
    """Negative log-likelihood (nats) and hits over the scored tokens. A row's first token has no prediction."""
    total = Score(loss=0.0, correct=0, tokens=0)
    for row in rows:
        loss, correct, tokens = _score_row(model, row)
        total = Score(loss=total.loss + loss, correct=total.correct + correct, tokens=total.tokens + tokens)
    return total


def _score_row(model: PeftModel, row: Row) -> tuple[float, int, int]:
    import torch  # noqa: PLC0415 - Unsloth must have been imported before

    positions = [index for index, scored in enumerate(row.completion_mask) if scored and index > 0]
    if not positions:
        return 0.0, 0, 0
    # The logits from the token before the first scored one on, without the last, which predicts nothing of the row.
    keep = len(row.input_ids) - positions[0] + 1
    ids = torch.tensor([row.input_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep, use_cache=False).logits
    scored = torch.tensor([index - positions[0] for index in positions], device=model.device)
    logits = logits[0, -keep:][scored].float()
    targets = ids[0, positions]
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return loss.item(), int((logits.argmax(-1) == targets).sum()), len(positions)


def answer(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[str]:
    """Greedy answers to the rows' prompts, generated as one batch."""
    import torch  # noqa: PLC0415 - Unsloth must have been imported before

    if not rows:
        return []
    prompts = [row.prompt_ids for row in rows]
    longest = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    references = max(len(row.input_ids) - row.prompt_length for row in rows)
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=min(MAX_ANSWER_TOKENS, references + SPARE_ANSWER_TOKENS),
        pad_token_id=pad,
        eos_token_id=stop_tokens(model, tokenizer),
        use_cache=True,
    )
    return [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in generated[:, longest:]]


def stop_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings and the tokenizer's own."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({end for end in (*ends, tokenizer.eos_token_id) if isinstance(end, int)})
