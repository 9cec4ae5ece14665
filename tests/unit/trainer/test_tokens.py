"""Token ids and masks, seen as the text that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.formats import Completion, Row, Text
from lora_trainer.data.tokens import RowTokenizer, TokenRow, load_tokenizer
from lora_trainer.errors import TrainerError

from tests.support.tiny_model import CHATML, CHATML_TOKENS, tiny_tokenizer, write_tiny_model

SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
COMPLETION = Completion(system=None, prompt="q", completion="a", plain_prompt="q ")


def tokenizer(template: str | None = CHATML, *, bos: str | None = None) -> RowTokenizer:
    special = SPECIAL | ({"bos_token": bos} if bos else {})
    return RowTokenizer(backend=tiny_tokenizer(bos=bos), special_tokens=special, template=template)


def encode(row: Row, using: RowTokenizer, train_on: TrainOn = TrainOn.ANSWERS) -> TokenRow:
    (encoded,) = using.encode([using.draft(row, train_on)])
    assert len(encoded.input_ids) == len(encoded.completion_mask)
    return encoded


def text(ids: list[int]) -> str:
    return tiny_tokenizer().decode(ids, skip_special_tokens=False)


def trained(row: TokenRow) -> str:
    return text([token for token, counts in zip(row.input_ids, row.completion_mask, strict=True) if counts])


def chat(*contents: str) -> Conversation:
    roles = ("user", "assistant") * len(contents)
    return Conversation(
        turns=tuple(Turn(role=role, content=each, extra={}) for role, each in zip(roles, contents, strict=False))
    )


def test_the_answer_and_its_end_are_trained_and_nothing_else() -> None:
    row = encode(chat("what?", "möglich ✓"), tokenizer())
    assert trained(row) == "möglich ✓<|im_end|>"
    assert text(row.input_ids).endswith("<|im_end|>\n")
    assert text(row.input_ids[: row.prompt_length]).endswith("<|im_start|>assistant\n")
    assert (row.prompt, row.completion) == ("what?", "möglich ✓")


def test_every_answer_the_last_one_or_everything() -> None:
    row = chat("q", "a", "r", "b")
    assert trained(encode(row, tokenizer())) == "a<|im_end|>b<|im_end|>"
    assert trained(encode(row, tokenizer(), TrainOn.LAST_ANSWER)) == "b<|im_end|>"
    everything = encode(row, tokenizer(), TrainOn.EVERYTHING)
    assert trained(everything) == text(everything.input_ids)


def test_rows_of_both_kinds_keep_their_order() -> None:
    using = tokenizer()
    rows = using.encode([using.draft(row, TrainOn.ANSWERS) for row in (Text(text="t"), chat("q", "a"), Text(text="u"))])
    assert [trained(row) for row in rows] == ["t<|im_end|>", "a<|im_end|>", "u<|im_end|>"]


def test_plain_text_ends_once_and_begins_once() -> None:
    using = tokenizer(None, bos="<|endoftext|>")
    for written in ("t", "<|endoftext|>t", "t<|im_end|>"):
        assert text(encode(Text(text=written), using).input_ids) == "<|endoftext|>t<|im_end|>"


def test_a_template_may_write_the_begin_token_itself() -> None:
    using = tokenizer("<|endoftext|>" + CHATML, bos="<|endoftext|>")
    assert text(encode(chat("q", "a"), using).input_ids).count("<|endoftext|>") == 1


def test_the_begin_token_in_a_row_is_not_doubled() -> None:
    using = tokenizer("{{ bos_token }}" + CHATML.replace("<|im_start|>", ""), bos="<|endoftext|>")
    twice = Conversation(turns=(Turn(role="<|endoftext|>", content="", extra={}), *chat("q", "a").turns))
    row = encode(twice, using)
    assert text(row.input_ids).startswith("<|endoftext|>\n")
    assert trained(row) == "a<|im_end|>"


def test_prompt_and_completion_use_the_template_where_there_is_one() -> None:
    assert text(encode(COMPLETION, tokenizer()).input_ids).startswith("<|im_start|>user\nq<|im_end|>")


def test_prompt_and_completion_without_a_template_are_plain_text() -> None:
    row = encode(COMPLETION, tokenizer(None))
    assert text(row.input_ids) == "q a<|im_end|>"
    assert trained(row) == "a<|im_end|>"
    assert row.prompt_length == 2
    assert trained(encode(COMPLETION, tokenizer(None), TrainOn.EVERYTHING)) == "q a<|im_end|>"


def test_half_of_a_plain_text_is_its_prompt() -> None:
    row = encode(Text(text="abcdefg"), tokenizer(None))
    assert (row.prompt_length, row.prompt, row.completion) == (4, "abcd", "efg")


def test_the_first_token_never_counts() -> None:
    assert encode(Text(text=""), tokenizer(None)).trained_tokens == 0
    assert encode(Text(text="ab"), tokenizer(None)).trained_tokens == 2


def test_end_and_pad_tokens() -> None:
    assert (tokenizer().eos_token_id, tokenizer().pad_token_id) == (2, 0)
    only_end = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=None)
    assert only_end.pad_token_id == only_end.eos_token_id == 2


def test_the_end_of_a_turn_is_the_templates_not_the_tokenizers() -> None:
    wrong = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_start|>"}, template=CHATML)
    assert wrong.eos_token_id == CHATML_TOKENS.index("<|im_end|>")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (CHATML.replace("<|im_start|>", "<|turn>"), "<|turn>, which the model's tokenizer does not know"),
        (CHATML.replace("<|im_end|>", "<|eot_id|>"), "<|eot_id|>, which the model's tokenizer does not know"),
        (CHATML.replace("<|im_end|>", ""), "ends an answer with 'r' instead of an end token"),
        (CHATML.replace("<|im_end|>", "."), "ends an answer with '.' instead of an end token"),
    ],
)
def test_a_template_that_does_not_fit_the_tokenizer(template: str, words: str) -> None:
    with pytest.raises(TrainerError) as caught:
        tokenizer(template)
    assert caught.value.code is ExitCode.ChatTemplateInvalid
    assert words in caught.value.message
    assert caught.value.remedy


def test_an_answer_that_the_template_does_not_end_is_a_bad_row() -> None:
    ends_short_ones = CHATML.replace("<|im_end|>", "{% if message.content | length < 20 %}<|im_end|>{% endif %}")
    using = tokenizer(ends_short_ones)
    assert trained(encode(chat("q", "short"), using)) == "short<|im_end|>"
    with pytest.raises(RowError, match="ends an answer with 'ngest answer' instead of an end token"):
        using.draft(chat("q", "the very longest answer"), TrainOn.ANSWERS)


def test_conversations_need_a_template() -> None:
    with pytest.raises(TrainerError) as caught:
        tokenizer(None).draft(chat("q", "a"), TrainOn.ANSWERS)
    assert caught.value.code is ExitCode.ChatTemplateInvalid
    assert "dataset.chatTemplate" in (caught.value.remedy or "")


def test_a_tokenizer_without_end_token_is_refused() -> None:
    with pytest.raises(TrainerError) as caught:
        RowTokenizer(backend=tiny_tokenizer(), special_tokens={}, template=None)
    assert caught.value.code is ExitCode.ModelUnsupported


def test_limits_inside_tokenizer_json_do_not_cut_rows() -> None:
    backend = tiny_tokenizer()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    using = RowTokenizer(backend=backend, special_tokens=SPECIAL, template=None)
    assert len(encode(Text(text="abcdefgh"), using).input_ids) == 9


def test_the_users_template_wins(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    mine = load_tokenizer(tmp_path, chat_template="Hello " + CHATML, chats=True)
    assert text(encode(chat("q", "a"), mine).input_ids).startswith("Hello <|im_start|>")


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": CHATML},
        {"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": CHATML}]},
    ],
)
def test_older_places_of_the_template(tmp_path: Path, settings: dict) -> None:
    write_tiny_model(tmp_path, template=None)
    end = {"content": "<|im_end|>", "lstrip": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": end} | settings))
    assert trained(encode(chat("q", "a"), load_tokenizer(tmp_path, chat_template=None, chats=True))) == "a<|im_end|>"


def test_a_folder_without_a_fast_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path, chat_template=None, chats=True)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TrainerError, match="cannot be read"):
        load_tokenizer(tmp_path, chat_template=None, chats=True)


WITH_TOOLS = "{% for tool in tools or [] %}{{ tool.name }}{% endfor %}" + CHATML


@pytest.mark.parametrize("as_files", [False, True])
def test_rows_with_tools_use_the_tokenizers_template_for_them(tmp_path: Path, as_files: bool) -> None:
    write_tiny_model(tmp_path, template=CHATML if as_files else None)
    if as_files:
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates/tool_use.jinja").write_text(WITH_TOOLS)
    else:
        named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": WITH_TOOLS}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(SPECIAL | {"chat_template": named}))
    using = load_tokenizer(tmp_path, chat_template=None, chats=True)
    called = Conversation(turns=chat("q", "a").turns, tools=({"name": "get_weather"},))
    assert text(encode(called, using).input_ids).startswith("get_weather<|im_start|>user")
    assert text(encode(chat("q", "a"), using).input_ids).startswith("<|im_start|>user")
    mine = load_tokenizer(tmp_path, chat_template=CHATML, chats=True)
    with pytest.raises(RowError, match="does not show the tool get_weather"):
        mine.draft(called, TrainOn.ANSWERS)
