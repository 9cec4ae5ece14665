"""Prompts for GRPO: their shapes, what the model reads, and what rewards are given."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from lora_trainer.data.columns import RowError
from lora_trainer.data.questions import QuestionRow, answer_to, draft_question, normalise_question
from lora_trainer.data.tokens import RowTokenizer

from tests.support.tiny_model import CHATML, tiny_tokenizer

ASK = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def question(
    record: dict[str, Any],
    *,
    template: str | None = CHATML,
    columns: dict[str, str] | None = None,
    bos: str | None = None,
    needed: tuple[str, ...] = (),
) -> QuestionRow:
    special = {"eos_token": "<|im_end|>"} | ({"bos_token": bos} if bos else {})
    tokenizer = RowTokenizer(backend=tiny_tokenizer(bos=bos), special_tokens=special, template=template)
    row = draft_question(normalise_question(record, columns, needed=needed), tokenizer)
    assert row
    return row


@pytest.mark.parametrize("prompt", ["q", [{"role": "user", "content": "q"}]])
def test_a_prompt_asks_through_the_template(prompt: Any) -> None:
    row = question({"prompt": prompt, "answer": "4"})
    assert row.prompt == ASK
    assert row.prompt_ids == tiny_tokenizer().encode(ASK).ids
    assert row.question == "q"
    assert json.loads(row.row) == {"prompt": prompt, "columns": {"answer": "4"}}


def test_a_system_column_leads() -> None:
    assert question({"prompt": "q", "system": "short"}).prompt.startswith("<|im_start|>system\nshort")


def test_tools_reach_the_template() -> None:
    shown = "{% for tool in tools or [] %}{{ tool.name }};{% endfor %}" + CHATML
    assert question({"prompt": "q", "tools": [{"name": "find"}]}, template=shown).prompt == "find;" + ASK


def test_plain_text_without_a_template() -> None:
    assert question({"prompt": "1 + 1 ="}, template=None).prompt == "1 + 1 ="


def test_the_begin_token_stands_once() -> None:
    row = question({"prompt": "q"}, template="{{ bos_token }}" + CHATML, bos="<|endoftext|>")
    assert row.prompt == ASK, "the tokenizer puts the begin token before it"
    assert row.prompt_ids == tiny_tokenizer(bos="<|endoftext|>").encode(row.prompt).ids
    assert row.prompt_ids.count(0) == 1


def test_columns_are_mapped_and_the_others_kept() -> None:
    row = question({"ask": "q", "gold": "4", "level": 2}, columns={"prompt": "ask"}, needed=("gold",))
    assert json.loads(row.row)["columns"] == {"gold": "4", "level": 2}


def test_an_answer_knows_its_row() -> None:
    row = question({"prompt": "q", "answer": "4"})
    answer = answer_to(row.row, text="five", ids=[5, 2])
    assert (answer.prompt, answer.columns, answer.text, answer.ids) == ("q", {"answer": "4"}, "five", [5, 2])


def test_nothing_asked_is_nothing_to_learn() -> None:
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=None)
    assert draft_question(normalise_question({"prompt": " "}, None, needed=()), tokenizer) is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"answer": "4"}, "the column prompt is missing"),
        ({"prompt": 4, "answer": "4"}, "the column prompt is a number"),
        ({"prompt": "q"}, "the column answer is missing"),
        ({"prompt": "q", "answer": None}, "the column answer is null"),
        ({"prompt": "q", "answer": "4", "completions": []}, "the column completions has the name"),
        ({"prompt": "q", "answer": "4", "completion_ids": []}, "the column completion_ids has the name"),
        ({"prompt": [{"role": "robot", "content": "q"}], "answer": "4"}, "^prompt.0. has the unknown role 'robot'"),
        ({"prompt": "q", "answer": "4", "day": date(2026, 1, 1)}, "a value that JSON cannot represent"),
    ],
)
def test_what_cannot_be_used(record: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError, match=said):
        question(record, needed=("answer",))
