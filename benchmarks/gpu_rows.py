"""The rows that the GPU benchmarks train on: random words, in chats of stated lengths. The same ones every time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROW_TOKENS = 2048
WORDS = ("select", "count", "from", "singer", "where", "age", "order", "by", "name", "group")
"""One token each, with the space before it, in the tokenizers of Llama and SmolLM2."""
CHAT_TOKENS = 24
"""What a template adds to a prompt with its answer, about."""
SEED = 0


def mixed_length(generator: random.Random) -> int:
    """Tokens of a chat: log-normal, half of them below 300, 99 % below 2000."""
    tokens = round(generator.lognormvariate(math.log(300), math.log(2000 / 300) / 2.326))
    return min(max(tokens, CHAT_TOKENS + 8), ROW_TOKENS)


ROWS: Mapping[str, tuple[int, Callable[[random.Random], int]]] = {
    "mixed lengths": (4000, mixed_length),
    "full rows": (1000, lambda _: ROW_TOKENS + 64),  # cut off
}
"""How many rows, and their lengths in tokens."""


def chats(rows: str) -> Iterator[dict[str, Any]]:
    """Prompts with answers twice as long, of random words."""
    count, length = ROWS[rows]
    generator = random.Random(SEED)
    for _ in range(count):
        words = length(generator) - CHAT_TOKENS
        prompt = words // 3
        texts = (" ".join(generator.choices(WORDS, k=k)) for k in (prompt, words - prompt))
        yield {
            "messages": [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)
            ]
        }
