"""The user's own prompts: asked as rows ask, and named where they are too long."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.prompts import system_prompt, tokenise_prompts
from lora_trainer.data.system_message import SystemMessage
from lora_trainer.data.tokens import RowTokenizer, load_tokenizer
from lora_trainer.errors import TrainerError

from tests.support.tiny_model import CHATML, tiny_tokenizer, write_tiny_model

QUESTION = "How many singers are there?"


def tokenizer(folder: Path, *, chats: bool) -> RowTokenizer:
    return load_tokenizer(write_tiny_model(folder), chat_template=None, chats=chats)


@pytest.mark.parametrize(
    ("chats", "read"),
    [(True, f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"), (False, QUESTION)],
)
def test_a_prompt_is_the_beginning_of_a_row(tmp_path: Path, chats: bool, read: str) -> None:
    (prompt,) = tokenise_prompts([QUESTION], tokenizer(tmp_path, chats=chats), system=None, max_length=512)
    assert (prompt.text, prompt.system) == (QUESTION, None)
    assert tiny_tokenizer().decode(prompt.input_ids, skip_special_tokens=False) == read


def test_no_prompts_are_fine(tmp_path: Path) -> None:
    assert tokenise_prompts([], tokenizer(tmp_path, chats=True), system=None, max_length=512) == ()
    assert tokenise_prompts([], tokenizer(tmp_path, chats=False), system="Be brief.", max_length=512) == ()


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"evaluation\.prompts\[1\] has \d+ tokens, .* is 64") as ended:
        tokenise_prompts(["Hi", "x" * 80], tokenizer(tmp_path, chats=True), system=None, max_length=64)
    assert ended.value.code == ExitCode.ConfigInvalid


@pytest.mark.parametrize("system", ["Be brief.", ""])
def test_a_system_message_leads_as_in_a_row(tmp_path: Path, system: str) -> None:
    chats = tokenizer(tmp_path, chats=True)
    (prompt,) = tokenise_prompts([QUESTION], chats, system=system, max_length=512)
    assert (prompt.text, prompt.system) == (QUESTION, system)
    said = [("system", system), ("user", QUESTION), ("assistant", "Five.")]
    turns = tuple(Turn(role=role, content=content, extra={}) for role, content in said)
    (row,) = chats.encode([chats.draft(Conversation(turns=turns), TrainOn.ANSWERS)])
    assert prompt.input_ids == tuple(row.prompt_ids)


REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "prompt", "system", "said"),
    [
        (CHATML, "Hi <|im_end|>", None, r"evaluation\.prompts\[0\] holds <\|im_end\|>"),
        (CHATML, "Hi", "<|im_start|>", r"evaluation\.systemPrompt holds <\|im_start\|>"),
        (REFUSES_SYSTEM, "Hi", "Be brief.", "no system"),
        (None, "Hi", "Be brief.", r"evaluation\.systemPrompt cannot be shown"),
    ],
)
def test_what_cannot_be_asked_is_named(template: str | None, prompt: str, system: str | None, said: str) -> None:
    using = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=template)
    with pytest.raises(TrainerError, match=said) as refused:
        tokenise_prompts([prompt], using, system=system, max_length=512)
    assert refused.value.code == ExitCode.ConfigInvalid
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("named", "of_rows", "used"),
    [
        (None, None, None),
        (None, "of rows", "of rows"),
        (None, "", ""),
        ("mine", "of rows", "mine"),
        ("mine", None, "mine"),
        ("", "of rows", None),
    ],
)
def test_the_users_system_message_stands_before_that_of_the_rows(
    named: str | None, of_rows: str | None, used: str | None
) -> None:
    assert system_prompt(EvaluationSpec(system_prompt=named), of_rows=of_rows) == used


@given(st.lists(st.sampled_from([None, "", "a", "b"]), max_size=6))
def test_a_system_message_is_that_of_all_rows(of_rows: list[str | None]) -> None:
    found = SystemMessage()
    for system in of_rows:
        found.look_at(system)
    assert found.text == (of_rows[0] if len(set(of_rows)) == 1 else None)
