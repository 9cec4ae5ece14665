"""Pairs of answers: their shapes, where the prompt ends, and what cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.columns import RowError
from lora_trainer.data.formats import detect_format
from lora_trainer.data.preferences import PairRow, draft_pair, encode_pairs, normalise_pair, show_pair
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError

from tests.support.tiny_model import CHATML, tiny_tokenizer

BACKEND = tiny_tokenizer()
ASK = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def human(content: str) -> dict[str, str]:
    return {"from": "human", "value": content}


def gpt(content: str) -> dict[str, str]:
    return {"from": "gpt", "value": content}


def pair(record: dict[str, Any], *, template: str | None = CHATML, columns: dict[str, str] | None = None) -> PairRow:
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=template)
    draft = draft_pair(normalise_pair(record, columns), tokenizer)
    assert draft
    (row,) = encode_pairs([draft], tokenizer)
    return row


def texts(row: PairRow) -> tuple[str, str, str]:
    prompt, chosen, rejected = (
        BACKEND.decode(ids, skip_special_tokens=False) for ids in (row.prompt_ids, row.chosen_ids, row.rejected_ids)
    )
    return prompt, chosen, rejected


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [user("q")], "chosen": [said("good")], "rejected": [said("bad")]},
        {"chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
        {"prompt": "q", "chosen": [said("good")], "rejected": [said("bad")]},
        {"prompt": [user("q")], "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
        {"prompt": user("q"), "chosen": said("good"), "rejected": said("bad")},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {"instruction": "q", "chosen": [said("good")], "rejected": [said("bad")]},
        {"conversations": [human("q")], "chosen": [gpt("good")], "rejected": [gpt("bad")]},
        {"conversations": [human("q")], "chosen": gpt("good"), "rejected": gpt("bad")},
        {"messages": [user("q")], "chosen": "good", "rejected": "bad"},
    ],
    ids=[
        "explicit",
        "implicit",
        "texts",
        "prompt repeated",
        "prompt as text",
        "answers as texts",
        "messages repeated",
        "one message each",
        "alpaca",
        "alpaca with messages",
        "sharegpt",
        "sharegpt with one message each",
        "messages with texts",
    ],
)
def test_every_shape_gives_the_same_pair(record: dict[str, Any]) -> None:
    row = pair(record)
    assert texts(row) == (ASK, "good<|im_end|>", "bad<|im_end|>")
    assert (row.prompt, row.chosen, row.rejected) == ("q", "good", "bad")


def test_the_end_is_trained_and_nothing_after_it() -> None:
    row = pair({"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert row.chosen_ids[-1] == row.rejected_ids[-1] == BACKEND.token_to_id("<|im_end|>")


def test_a_system_column_leads_the_chat() -> None:
    row = pair({"system": "short", "prompt": "q", "chosen": [said("good")], "rejected": [said("bad")]})
    assert texts(row)[0].startswith("<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\nq")


def test_the_prompt_is_all_that_both_conversations_share() -> None:
    history = [user("1"), said("2"), user("3")]
    row = pair({"chosen": [*history, said("good")], "rejected": [*history, said("bad")]})
    prompt, chosen, _ = texts(row)
    assert prompt.count("<|im_start|>") == 4
    assert chosen == "good<|im_end|>"


def test_whole_texts_are_not_put_into_a_template() -> None:
    row = pair({"chosen": "Human: q\n\nAssistant: good", "rejected": "Human: q\n\nAssistant: bad"})
    assert texts(row) == ("Human: q\n\nAssistant:", " good<|im_end|>", " bad<|im_end|>")


def test_an_instruction_and_its_input_are_the_prompt() -> None:
    row = pair({"instruction": "Sum up.", "input": "A text.", "chosen": "good", "rejected": "bad"})
    assert texts(row)[0] == "<|im_start|>user\nSum up.\n\nA text.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("answers", [("good", "bad"), ([said("good")], [said("bad")])], ids=["texts", "messages"])
def test_a_history_comes_before_the_question(answers: tuple[Any, Any]) -> None:
    row = pair({"instruction": "q", "history": [["1", "2"]], "chosen": answers[0], "rejected": answers[1]})
    before = "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    assert texts(row) == (before + ASK, "good<|im_end|>", "bad<|im_end|>")


def test_messages_beside_whole_conversations_are_not_their_prompt() -> None:
    whole = [user("q"), said("good")]
    row = pair({"messages": whole, "chosen": whole, "rejected": [user("q"), said("bad")]})
    assert texts(row) == (ASK, "good<|im_end|>", "bad<|im_end|>")


def test_a_chosen_answer_that_is_not_to_be_learned_teaches_nothing() -> None:
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=CHATML)
    record = {"prompt": [user("q")], "chosen": [{**said("good"), "weight": 0}], "rejected": [said("bad")]}
    assert draft_pair(normalise_pair(record, None), tokenizer) is None


def test_texts_without_a_template_are_plain() -> None:
    row = pair({"prompt": "q: ", "chosen": "good", "rejected": "bad"}, template=None)
    assert texts(row) == ("q: ", "good<|im_end|>", "bad<|im_end|>")


def test_columns_are_mapped() -> None:
    row = pair(
        {"question": "q", "better": "good", "worse": "bad"},
        columns={"prompt": "question", "chosen": "better", "rejected": "worse"},
    )
    assert texts(row) == (ASK, "good<|im_end|>", "bad<|im_end|>")


def test_figures_of_a_pair() -> None:
    row = pair({"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert row.trained_tokens == len("good") + 1 + len("bad") + 1
    assert row.length == len(row.prompt_ids) + 5
    assert row.tokens == 2 * len(row.prompt_ids) + 9


def test_cutting_keeps_the_prompt_first() -> None:
    row = pair({"prompt": "q", "chosen": "good", "rejected": "bad"})
    cut = row.truncated(len(row.prompt_ids) + 2)
    assert texts(cut) == (ASK, "go", "ba")
    assert row.truncated(3).trained_tokens == 0


def test_equal_answers_teach_nothing() -> None:
    assert pair({"prompt": "q", "chosen": "same", "rejected": "same"}).trained_tokens == 0
    same = [user("q"), said("same")]
    assert pair({"chosen": same, "rejected": same}).trained_tokens == 0


def test_an_empty_answer_teaches_nothing() -> None:
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=CHATML)
    assert draft_pair(normalise_pair({"prompt": "q", "chosen": "good", "rejected": " "}, None), tokenizer) is None


def test_pairs_that_differ_only_in_their_split_have_other_contents() -> None:
    one = PairRow(prompt_ids=[1], chosen_ids=[2, 3], rejected_ids=[4], prompt="", chosen="", rejected="")
    other = PairRow(prompt_ids=[1, 2], chosen_ids=[3], rejected_ids=[4], prompt="", chosen="", rejected="")
    assert one.contents() != other.contents()


@pytest.mark.parametrize(
    ("record", "said_of_it"),
    [
        ({"prompt": "q", "chosen": "good"}, "the column rejected is missing"),
        ({"prompt": "q", "chosen": None, "rejected": "bad"}, "the column chosen is null"),
        ({"prompt": "q", "chosen": 1, "rejected": "bad"}, "the column chosen is a number instead of a string"),
        ({"prompt": "q", "chosen": [said("good")], "rejected": "bad"}, "the column chosen is a list"),
        (
            {"prompt": [user("q")], "chosen": [said("a"), user("b"), said("c")], "rejected": [said("bad")]},
            "the column chosen has 3 messages after the prompt instead of one answer",
        ),
        ({"prompt": [user("q")], "chosen": [], "rejected": [said("bad")]}, "chosen has 0 messages after the prompt"),
        (
            {"prompt": [said("0"), user("q")], "chosen": [user("good")], "rejected": [said("bad")]},
            "the column chosen does not end with an assistant message",
        ),
        ({"prompt": [user("q")], "chosen": [{"role": "x"}], "rejected": [said("bad")]}, "unknown role 'x'"),
        (
            {"prompt": [{"role": "wizard", "content": "q"}], "chosen": [said("good")], "rejected": [said("bad")]},
            r"^prompt\[0\] has the unknown role 'wizard'",
        ),
        (
            {"system": "s", "chosen": [user("q"), said("good")], "rejected": [user("q"), {"role": "x"}]},
            r"^rejected\[1\] has the unknown role 'x'",
        ),
        (
            {"question": "q", "chosen": "good", "rejected": "bad"},
            r"no prompt beside them: if it is the column question, set dataset.columns \{prompt: question\}",
        ),
        (
            {"history": [["1", "2"]], "chosen": "good", "rejected": "bad"},
            "the column history stands beside chosen: put its turns into chosen",
        ),
        ({"prompt": 3, "chosen": "good", "rejected": "bad"}, "the column prompt is a number instead of a string"),
        ({"prompt": 3, "chosen": [said("good")], "rejected": [said("bad")]}, "the column prompt is a number"),
    ],
)
def test_what_cannot_be_used(record: dict[str, Any], said_of_it: str) -> None:
    with pytest.raises(RowError, match=said_of_it):
        normalise_pair(record, None)


def test_detection_names_what_is_missing() -> None:
    assert detect_format([{"chosen": "a", "rejected": "b"}], None, Method.DPO) is RowFormat.PREFERENCE
    with pytest.raises(TrainerError, match="found messages; expected chosen and rejected") as refused:
        detect_format([{"messages": []}], None, Method.DPO)
    assert refused.value.code is ExitCode.DatasetInvalid
    with pytest.raises(TrainerError, match="no format of method SFT: found chosen, rejected; expected messages"):
        detect_format([{"chosen": "a", "rejected": "b"}], None)


def test_a_pair_is_shown_with_what_counts() -> None:
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=CHATML)
    row = pair({"prompt": "q", "chosen": "good", "rejected": "bad"})
    shown = show_pair({name: getattr(row, name) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}, tokenizer)
    assert shown == f"chosen: {ASK}⟦good<|im_end|>⟧\nrejected: {ASK}⟦bad<|im_end|>⟧"
