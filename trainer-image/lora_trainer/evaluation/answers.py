"""Greedy answers to prompts, and how many of them are the reference. A few prompts at a time, as one batch.

Imports torch inside its functions: Unsloth must have been imported before it (see libraries.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_PROMPTS = 8
"""Prompts answered at a time: the cache of a few prompts is small beside what training needs."""


def answer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: Sequence[int],
) -> list[str]:
    """Greedy answers to prompts of token ids as they are shown, each of at most about its own `max_tokens`."""
    return [as_text(tokenizer, ids) for ids in answer_ids(model, tokenizer, prompts, max_tokens=max_tokens)]


def answer_ids(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: Sequence[int],
) -> list[list[int]]:
    """The token ids of the same answers, without padding: with their end token, unless they were cut before it."""
    answers: list[list[int]] = []
    for start in range(0, len(prompts), BATCH_PROMPTS):
        part = slice(start, start + BATCH_PROMPTS)
        answers += _answer_batch(model, tokenizer, prompts[part], max_tokens=max(max_tokens[part]))
    return answers


def _answer_batch(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
) -> list[list[int]]:
    import torch

    longest = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + [*prompt] for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    ends = stop_tokens(model, tokenizer)
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=pad,
        eos_token_id=ends,
        use_cache=True,
    )
    return [until_end(tokens, ends) for tokens in generated[:, longest:].tolist()]


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """The ids up to the first that ends an answer, which is the last of them."""
    end = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return [*ids[: end + 1]]


def as_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """An answer's tokens as they are shown and compared: without special tokens and outer white space."""
    return written(tokenizer, ids).strip()


def written(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """An answer's tokens as they are judged: without special tokens."""
    return str(tokenizer.decode([*ids], skip_special_tokens=True))


def stop_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings and the tokenizer's own."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({end for end in (*ends, tokenizer.eos_token_id) if isinstance(end, int)})


def exact_match(answers: Sequence[str], references: Sequence[str], *, ignore_case: bool) -> float:
    """Share of answers that are their reference, but for white space and, with `ignore_case`, for case."""
    pairs = zip(answers, references, strict=True)
    hits = sum(_normalised(a, ignore_case=ignore_case) == _normalised(r, ignore_case=ignore_case) for a, r in pairs)
    return hits / len(answers)


def _normalised(text: str, *, ignore_case: bool) -> str:
    text = " ".join(text.split())
    return text.casefold() if ignore_case else text
