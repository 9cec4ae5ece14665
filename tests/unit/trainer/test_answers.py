"""Exact match: what counts as the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lora_trainer.contract.spec.evaluation import ExactMatchSpec
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.evaluation.answers import as_text, exact_match
from lora_trainer.evaluation.rows import Row, exact_matches

from tests.support.tiny_model import CHATML, tiny_tokenizer

# Like Qwen3: an answer without reasoning is written with an empty block of it.
EMPTY_REASONING = CHATML.replace(
    "{{ message.content }}", "{{ '<think>\n\n</think>\n\n' if message.role == 'assistant' }}{{ message.content }}"
)

REFERENCE = "SELECT name FROM singer WHERE age > 30"

CASES = [
    (REFERENCE, False, True),
    (f"  {REFERENCE}\n", False, True),
    (REFERENCE.replace(" FROM", "\n  FROM"), False, True),
    (REFERENCE.lower(), False, False),
    (REFERENCE.lower(), True, True),
    (REFERENCE + ";", True, False),
    ("", True, False),
]


@pytest.mark.parametrize(("answer", "ignore_case", "same"), CASES)
def test_what_counts_as_the_same(answer: str, ignore_case: bool, same: bool) -> None:
    assert exact_match([answer], [REFERENCE], ignore_case=ignore_case) == same


def test_the_share_is_of_all_answers() -> None:
    assert exact_match(["a", "b", "c", "d"], ["a", "x", "c", "y"], ignore_case=False) == 0.5


class Tokenizer:
    """transformers' tokenizer, as far as answers are decoded."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return tiny_tokenizer().decode(ids, skip_special_tokens=skip_special_tokens)


@pytest.mark.parametrize("template", [CHATML, EMPTY_REASONING])
def test_an_adapter_that_gives_the_learned_answer_matches_it(template: str) -> None:
    using = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=template)
    turns = (Turn(role="user", content="q", extra={}), Turn(role="assistant", content=REFERENCE, extra={}))
    (encoded,) = using.encode([using.draft(Conversation(turns=turns), TrainOn.ANSWERS)])
    row = Row(
        input_ids=encoded.input_ids,
        completion_mask=encoded.completion_mask,
        prompt_length=encoded.prompt_length,
        prompt=encoded.prompt,
        completion=encoded.completion,
    )
    tokenizer: Any = Tokenizer()
    perfect = as_text(
        tokenizer, [token for token, counts in zip(row.input_ids, row.completion_mask, strict=True) if counts]
    )
    figures = exact_matches(tokenizer, [row], base=["no"], tuned=[perfect], spec=ExactMatchSpec(rows=1))
    assert figures == {"answers": 1, "base_exact_match": 0, "exact_match": 1}
