"""From a record to what is trained of it, seen as text."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import answers_encoder
from lora_trainer.data.tokens import RowTokenizer

from tests.support.tiny_model import CHATML, tiny_tokenizer

TOKENIZER = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=CHATML)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def shown(
    record: dict[str, Any], row_format: RowFormat = RowFormat.MESSAGES, train_on: TrainOn = TrainOn.ANSWERS
) -> str | None:
    """The row with what counts in the loss in ⟦ ⟧, without the roles' markup; None where nothing is in it to learn."""
    encoder = answers_encoder(TOKENIZER, row_format, None, train_on=train_on)
    drafts = encoder.draft(record)
    if not drafts:
        return None
    (row,) = TOKENIZER.encode(drafts)
    text = TOKENIZER.marked(row.input_ids, row.completion_mask)
    return text.replace("<|im_start|>", "").replace("<|im_end|>", ".").replace("\n", " ").strip()


def test_an_answer_of_weight_0_is_shown_and_not_learned() -> None:
    answers = [user("Add 1 and 1."), said("3", weight=0), user("Wrong."), said("Sorry: 2", weight=1)]
    told = "user Add 1 and 1.. assistant 3. user Wrong.. assistant ⟦Sorry: 2.⟧"
    assert shown({"messages": answers}) == told
    assert shown({"messages": answers}, train_on=TrainOn.LAST_ANSWER) == told


def test_the_last_answer_is_the_last_one_that_is_learned() -> None:
    answers = [user("1"), said("2"), user("3"), said("4", train=False)]
    for train_on in (TrainOn.ANSWERS, TrainOn.LAST_ANSWER):
        assert shown({"messages": answers}, train_on=train_on) == "user 1. assistant ⟦2.⟧"


def test_a_chat_whose_answers_are_all_unlearned_teaches_nothing() -> None:
    assert shown({"messages": [user("1"), said("2", weight=0)]}) is None


def test_a_mark_against_everything_is_refused() -> None:
    record = {"system": "s", "messages": [user("1"), said("2", weight=0), user("3"), said("4")]}
    with pytest.raises(RowError, match=r"messages\[1\] is marked as not to be learned, but training\.sft\.trainOn is"):
        shown(record, train_on=TrainOn.EVERYTHING)


def test_what_follows_the_last_answer_is_left_out_unless_everything_is_learned() -> None:
    record = {"messages": [user("1"), said("Hm"), user("Again"), user("The north hill")]}
    assert shown(record) == "user 1. assistant ⟦Hm.⟧"
    everything = shown(record, train_on=TrainOn.EVERYTHING)
    assert everything
    assert "The north hill" in everything


def test_a_history_is_learned_like_every_answer() -> None:
    history = {"history": [["Name village 0.", "Village 0 is called V0."]]}
    record = {"instruction": "And who?", "input": "", "output": "0 people.", **history}
    asked = "user Name village 0.. assistant ⟦Village 0 is called V0..⟧ user And who?. assistant ⟦0 people..⟧"
    assert shown(record, RowFormat.ALPACA) == asked
