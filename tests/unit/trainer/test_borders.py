"""Tokens across the border of prompt and answer: the answer is trained whole, and the prompt holds none of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.formats import Completion, Row
from lora_trainer.data.prompts import tokenise_prompts
from lora_trainer.data.tokens import RowTokenizer, TokenRow
from tokenizers import Tokenizer

from tests.properties.rows import tried_on
from tests.support.merging_tokenizers import merging_tokenizers
from tests.support.real_tokenizers import FAMILIES, real_tokenizer
from tests.support.tiny_model import CHATML

ENDS_IN_A_SPACE = (
    "{% for m in messages %}{{ '>>> User: ' if m.role == 'user' else '>>> Assistant: ' }}{{ m.content }}"
    "{{ '\n' if m.role == 'user' else eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}>>> Assistant: {% endif %}"
)
"""Like Unsloth's own template."""
CASES = (
    *((name, template) for name in merging_tokenizers() for template in (None, CHATML, ENDS_IN_A_SPACE)),
    *((family, template) for family in FAMILIES for template in (None, ENDS_IN_A_SPACE)),
    ("qwen", CHATML),
)
"""Tokenizers and templates that they know the tokens of."""
SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
TEXTS = st.text(st.sampled_from(" \n\t:.aeopsitv>é\u0301\u00a0✓🙂\u200b"), max_size=12) | st.text(
    st.characters(codec="utf-8", exclude_characters="<"), max_size=12
)


def backend_of(name: str) -> Tokenizer:
    return real_tokenizer(name) if name in FAMILIES else merging_tokenizers()[name]


def special_tokens_of(name: str) -> Mapping[str, str]:
    return FAMILIES[name].special_tokens if name in FAMILIES else SPECIAL


def using(name: str = "byte level", template: str | None = None) -> RowTokenizer:
    return RowTokenizer(backend=backend_of(name), special_tokens=special_tokens_of(name), template=template)


def encode(row: Row, tokenizer: RowTokenizer) -> TokenRow:
    (encoded,) = tokenizer.encode([tokenizer.draft(row, TrainOn.ANSWERS)])
    return encoded


def shown(row: TokenRow, tokenizer: RowTokenizer) -> str:
    return tokenizer.marked(row.input_ids, row.completion_mask)


def completion(prompt: str, answer: str) -> Completion:
    return Completion(system=None, prompt=prompt, completion=answer, plain_prompt=prompt)


def chat(question: str, answer: str) -> Conversation:
    return Conversation(
        turns=(Turn(role="user", content=question, extra={}), Turn(role="assistant", content=answer, extra={}))
    )


def test_the_space_before_an_answer_is_learned_with_its_word() -> None:
    tokenizer = using()
    row = encode(completion("Review: I loved it.\nSentiment: ", "positive"), tokenizer)
    assert shown(row, tokenizer) == "Review: I loved it.\nSentiment:⟦ positive<|im_end|>⟧"
    assert tokenizer.marked(row.prompt_ids, [0] * row.prompt_length) == "Review: I loved it.\nSentiment:"


def test_the_space_may_stand_in_the_answer() -> None:
    tokenizer = using()
    row = encode(completion("Review: I loved it.\nSentiment:", " positive"), tokenizer)
    assert shown(row, tokenizer) == "Review: I loved it.\nSentiment:⟦ positive<|im_end|>⟧"


def test_a_template_may_end_its_prompt_in_a_space() -> None:
    tokenizer = using(template=ENDS_IN_A_SPACE)
    row = encode(chat("Review: I loved it.\nSentiment:", "positive"), tokenizer)
    assert shown(row, tokenizer).endswith(">>> Assistant:⟦ positive<|im_end|>⟧\n")
    assert tokenizer.marked(row.prompt_ids, [0] * row.prompt_length).endswith(">>> Assistant:")


def test_a_character_that_is_composed_with_the_prompts_last_one_is_learned() -> None:
    tokenizer = using("composes characters")
    row = encode(completion("caf", "e\u0301 positive"), tokenizer)
    assert shown(row, tokenizer) == "caf⟦é positive<|im_end|>⟧"
    row = encode(completion("cafe", "\u0301 positive"), tokenizer)
    assert shown(row, tokenizer) == "caf⟦é positive<|im_end|>⟧"


@pytest.mark.parametrize(("name", "template"), CASES)
@example("Sentiment: ", "positive")
@example("cafe", "\u0301")
@tried_on(40, tests=len(CASES))
@given(TEXTS, TEXTS.filter(str.strip))
def test_the_answer_is_trained_whole_and_the_prompt_holds_none_of_it(
    name: str, template: str | None, prompt: str, answer: str
) -> None:
    tokenizer = using(name, template)
    draft = tokenizer.draft(completion(prompt, answer), TrainOn.ANSWERS)
    (row,) = tokenizer.encode([draft])
    backend = backend_of(name)
    begin = backend.token_to_id(special_tokens_of(name).get("bos_token", ""))

    def written(text: str) -> str:
        return decoded(backend.encode(text, add_special_tokens=False).ids)

    def decoded(ids: list[int]) -> str:
        return backend.decode(ids[ids[:1] == [begin] :], skip_special_tokens=False)

    asked, text = draft.text[: draft.prompt_end], decoded(row.input_ids)
    assert written(asked).startswith(decoded(row.prompt_ids)), "the prompt holds nothing of the answer"
    assert text.startswith(written(draft.text)), "nothing is lost"
    first = row.completion_mask.index(1)
    assert first <= max(row.prompt_length, 1), "the answer is trained from its first token on"
    last = max(index for index, counts in enumerate(row.completion_mask) if counts)
    end = draft.spans[-1][1]
    assert decoded(row.input_ids[: last + 1]).startswith(written(draft.text[:end])), "until its last"
    assert all(row.completion_mask[first : last + 1])


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Review: I loved it.\nSentiment: ", "Review: I loved it.\nSentiment:"),
        ("Review: I loved it.\nSentiment:", "Review: I loved it.\nSentiment:"),
        ("Who keeps the keys?\n", "Who keeps the keys?\n"),
    ],
)
def test_the_users_own_prompts_are_asked_as_rows_ask(prompt: str, asked: str) -> None:
    tokenizer = using()
    (own,) = tokenise_prompts([prompt], tokenizer, system=None, max_length=512)
    assert tokenizer.marked(own.input_ids, [0] * len(own.input_ids)) == asked
    row = encode(completion(prompt, "positive"), tokenizer)
    assert tuple(row.prompt_ids) == own.input_ids
