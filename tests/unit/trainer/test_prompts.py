"""The user's own prompts: asked as rows ask, and named where they are too long."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.prompts import tokenise_prompts
from lora_trainer.data.tokens import RowTokenizer, load_tokenizer
from lora_trainer.errors import TrainerError

from tests.support.tiny_model import tiny_tokenizer, write_tiny_model

QUESTION = "How many singers are there?"


def tokenizer(folder: Path, *, chats: bool) -> RowTokenizer:
    return load_tokenizer(write_tiny_model(folder), chat_template=None, chats=chats)


@pytest.mark.parametrize(
    ("chats", "read"),
    [(True, f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"), (False, QUESTION)],
)
def test_a_prompt_is_the_beginning_of_a_row(tmp_path: Path, chats: bool, read: str) -> None:
    (prompt,) = tokenise_prompts([QUESTION], tokenizer(tmp_path, chats=chats), max_length=512)
    assert prompt.text == QUESTION
    assert tiny_tokenizer().decode(prompt.input_ids, skip_special_tokens=False) == read


def test_no_prompts_are_fine(tmp_path: Path) -> None:
    assert tokenise_prompts([], tokenizer(tmp_path, chats=True), max_length=512) == ()


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"evaluation\.prompts\[1\] has \d+ tokens, .* is 64") as ended:
        tokenise_prompts(["Hi", "x" * 80], tokenizer(tmp_path, chats=True), max_length=64)
    assert ended.value.code == ExitCode.ConfigInvalid
