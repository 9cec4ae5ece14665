"""Where answers stand in rendered conversations, for the ways in which real templates write them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.chat_template import ChatTemplate
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import Conversation, Turn
from lora_trainer.data.formats import Completion
from lora_trainer.data.spans import WrittenOtherwise
from lora_trainer.errors import TrainerError

from tests.support.tiny_model import CHATML

# Like Qwen3: the reasoning of earlier answers is left out, and an answer without any gets an empty block.
SHORTENS_REASONING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% set parts = message.content.split('</think>') %}"
    "{% if loop.last %}<think>{{ parts[0].replace('<think>', '') if parts | length > 1 else '' }}</think>\n{% endif %}"
    "{{ parts[-1] }}{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like DeepSeek-R1: the prompt opens a block of reasoning that answers in the data set do not have.
OPENS_REASONING = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
# Like Llama 2: strips, has no role for answers, ends them with the end token.
INSTRUCTIONS = (
    "{% for message in messages %}{% if message.role == 'assistant' %} {{ message.content | trim }} {{ eos_token }}"
    "{% else %}{{ bos_token }}[INST] {{ message.content | trim }} [/INST]{% endif %}{% endfor %}"
)

# Like gpt-oss: the last answer has another end than those before it.
ENDS_THE_LAST_OTHERWISE = (
    "{% for message in messages %}<|start|>{{ message.role }}"
    "{{ '<|channel|>final' if message.role == 'assistant' }}<|message|>{{ message.content }}"
    "{{ '<|return|>' if loop.last and message.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# Like Phi-3: the end token of all texts stands behind the last message.
ENDS_THE_TEXT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
# Like case X1: the reasoning is taken out, and the prompt opens a block of it.
DROPS_REASONING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}Assistant:{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:<think>\n{% endif %}"
)
# Like TRL's training templates: the template itself says what the model writes.
SAYS_WHAT_IS_GENERATED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>\n{% endgeneration %}{% else %}"
    "{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(*contents: str, first: str = "user") -> Conversation:
    roles = {"user": "assistant", "assistant": "user"}
    turns, role = [], first
    for content in contents:
        turns.append(Turn(role=role, content=content, extra={}, place=f"messages[{len(turns)}]"))
        role = roles[role]
    return Conversation(turns=tuple(turns))


def answers(source: str, chat: Conversation, train_on: TrainOn = TrainOn.ANSWERS) -> list[str]:
    template = ChatTemplate(source, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
    rendered = template.render(chat, train_on=train_on)
    return [rendered.text[start:end] for start, end in rendered.answers]


@pytest.mark.parametrize(
    ("source", "chat", "expected"),
    [
        (CHATML, conversation("q", "a"), ["a<|im_end|>"]),
        (CHATML, conversation("q", "a", "q2", "b"), ["a<|im_end|>", "b<|im_end|>"]),
        (CHATML, conversation("q", "a", "q2"), ["a<|im_end|>"]),
        # The answer's words stand in the question and in the markup too.
        (CHATML, conversation("assistant", "assistant"), ["assistant<|im_end|>"]),
        (CHATML, conversation("t", "q", "a", first="assistant"), ["t<|im_end|>", "a<|im_end|>"]),
        (INSTRUCTIONS, conversation("q", " a ", "r", "b"), [" a </s>", " b </s>"]),
        (SHORTENS_REASONING, conversation("q", "a"), ["<think></think>\na<|im_end|>"]),
        (SHORTENS_REASONING, conversation("q", "<think>hm</think>a"), ["<think>hm</think>\na<|im_end|>"]),
        (OPENS_REASONING, conversation("q", "a"), ["a<|im_end|>"]),
        (OPENS_REASONING, conversation("q", "<b>a</b>"), ["<b>a</b><|im_end|>"]),
        (OPENS_REASONING, conversation("q", "<think>\nhm</think>a"), ["hm</think>a<|im_end|>"]),
        (CHATML.replace("{{ message.content }}", "{% generation %}{{ message.content }}{% endgeneration %}"),
         conversation("q", "a"), ["a<|im_end|>"]),
        (SAYS_WHAT_IS_GENERATED, conversation("q", "a", "r", "b"), ["a<|im_end|>", "b<|im_end|>"]),
        (SAYS_WHAT_IS_GENERATED.replace("{% generation %}", "{% generation %}Well: "),
         conversation("q", "a"), ["Well: a<|im_end|>"]),
        (SAYS_WHAT_IS_GENERATED.replace("{% generation %}", "Well: {% generation %}"),
         conversation("q", "a", "r", "b"), ["a<|im_end|>", "b<|im_end|>"]),
        (ENDS_THE_LAST_OTHERWISE, conversation("Who keeps the keys?", "The porter.", "Are you sure?", "Yes."),
         ["<|channel|>final<|message|>The porter.<|end|>", "<|channel|>final<|message|>Yes.<|return|>"]),
        (ENDS_THE_LAST_OTHERWISE, conversation("q", "a", "r"), ["<|channel|>final<|message|>a<|end|>"]),
        (ENDS_THE_TEXT, conversation("q", "a", "r", "b"), ["a<|end|>", "b<|end|>\n</s>"]),
        (DROPS_REASONING, conversation("Item \ue000 costs 4 EUR. Price?", "4 EUR"), ["4 EUR</s>"]),
        (DROPS_REASONING, conversation("q", "mark1e \ue000", "r", "b"), ["mark1e \ue000</s>", "b</s>"]),
        (DROPS_REASONING, conversation("q", "<b>a</b>"), ["<b>a</b></s>"]),
        (DROPS_REASONING.replace("'Assistant:'", ""), conversation("Assistant:", "Assistant:"), ["Assistant:</s>"]),
    ],
)  # fmt: skip
def test_answers_with_their_end(source: str, chat: Conversation, expected: list[str]) -> None:
    assert answers(source, chat) == expected


def test_contents_are_given_as_parts_where_a_template_reads_them_so() -> None:
    source = CHATML.replace("{{ message.content }}", "{% for part in message.content %}{{ part.text }}{% endfor %}")
    assert answers(source, conversation("q", "a", "r", "b")) == ["a<|im_end|>", "b<|im_end|>"]
    assert answers(source.replace("part.text", "part.type ~ part.text"), conversation("q", "a")) == ["texta<|im_end|>"]


def test_a_template_that_reads_contents_in_no_form_says_what_fails_with_strings() -> None:
    source = CHATML.replace("{{ message.content }}", "{{ message.content.strip() + message.nothing }}")
    with pytest.raises(TrainerError, match="'dict object' has no attribute 'nothing'"):
        answers(source, conversation("q", "a"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [("call.arguments", '{"city": "Århus"}'), ("call.arguments | tojson", '{"city": "Århus"}')],
)
def test_arguments_are_given_as_text_where_a_template_can_write_nothing_else(written: str, expected: str) -> None:
    """Like DeepSeek-V3: it joins strings."""
    calls = (
        "{% for called in message.tool_calls or [] %}{% set call = called.function %}{{ call.name + '|' + WRITTEN }}"
    )
    source = CHATML.replace(
        "{{ message.content }}", "{{ message.content }}" + calls.replace("WRITTEN", f"({written})") + "{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Århus"}}}
    turns = conversation("q", "a").turns
    chat = Conversation(turns=(turns[0], replace(turns[1], extra={"tool_calls": [call]})))
    assert answers(source, chat) == [f"af|{expected}<|im_end|>"]


def test_last_answer_and_everything() -> None:
    chat = conversation("q", "a", "r", "b")
    assert answers(CHATML, chat, TrainOn.LAST_ANSWER) == ["b<|im_end|>"]
    (everything,) = answers(CHATML, chat, TrainOn.EVERYTHING)
    assert everything.startswith("<|im_start|>user\nq")


@pytest.mark.parametrize("first", ["a", "<think>hm</think>a"])
def test_an_answer_that_is_written_otherwise_once_more_follow_is_not_found_in_the_whole(first: str) -> None:
    chat = conversation("q", first, "r", "b")
    with pytest.raises(WrittenOtherwise, match=r"writes messages\[1\] otherwise once more messages follow"):
        answers(SHORTENS_REASONING, chat)
    assert answers(SHORTENS_REASONING, chat, TrainOn.LAST_ANSWER) == ["<think></think>\nb<|im_end|>"]


def test_a_block_inside_a_macro_does_not_say_its_place() -> None:
    answer = "{% generation %}{{ message.content }}<|im_end|>\n{% endgeneration %}"
    inside = (
        "{% macro say(message) %}"
        + answer
        + "{% endmacro %}"
        + SAYS_WHAT_IS_GENERATED.replace(answer, "{{ say(message) }}")
    )
    assert answers(inside, conversation("q", "a", "r", "b")) == ["a<|im_end|>", "b<|im_end|>"]


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        (
            conversation("<|im_start|>user\nq<|im_end|>", "a"),
            r"messages\[0\] holds <\|im_(start|end)\|>, which the chat",
        ),
        (conversation("q", "a<|im_end|>"), r"messages\[1\] holds <\|im_end\|>, which the chat template writes itself"),
        (
            Completion(system=None, prompt="<|im_start|>q", completion="a", plain_prompt="").conversation(),
            r"the column prompt holds <\|im_start\|>, which the chat template writes itself; use format Text, or take",
        ),
    ],
)
def test_rows_that_carry_the_markup_already_are_refused(chat: Conversation, words: str) -> None:
    with pytest.raises(RowError, match=words):
        answers(CHATML, chat)


def test_the_prompt_ends_where_the_last_answer_begins() -> None:
    rendered = ChatTemplate(CHATML, special_tokens={}).render(
        conversation("q", "a", "r", "b"), train_on=TrainOn.ANSWERS
    )
    assert rendered.text[: rendered.prompt_end].endswith("r<|im_end|>\n<|im_start|>assistant\n")


def test_the_date_is_the_same_every_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    rendered = ChatTemplate(source, special_tokens={}).render(conversation("q", "a"), train_on=TrainOn.ANSWERS)
    assert rendered.text.startswith("26 Jul 2024\n")


def test_tools_reach_the_template() -> None:
    source = "{% if tools %}{{ tools[0] | tojson }}\n{% endif %}" + CHATML
    chat = Conversation(turns=conversation("q", "a").turns, tools=({"name": "<f>"},))
    rendered = ChatTemplate(source, special_tokens={}).render(chat, train_on=TrainOn.ANSWERS)
    assert rendered.text.startswith('{"name": "<f>"}\n')


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for message in messages %}", "does not compile"),
        ("{{ messages[0].nothing.at_all }}", "cannot render a question and an answer"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("a fixed text", "does not show the content of messages[0]"),
        ("{{ ''.__class__.__mro__ }}" + CHATML, "cannot render"),
    ],
)
def test_a_template_that_cannot_be_used(source: str, words: str) -> None:
    with pytest.raises(TrainerError) as caught:
        ChatTemplate(source, special_tokens={})
    assert caught.value.code is ExitCode.ChatTemplateInvalid
    assert words in caught.value.message
    assert "dataset.chatTemplate" in (caught.value.remedy or "")


def test_a_row_that_the_template_refuses_is_a_bad_row() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    chat = Conversation(turns=(Turn(role="system", content="s", extra={}), *conversation("q", "a").turns))
    with pytest.raises(RowError, match="no system role"):
        ChatTemplate(strict, special_tokens={}).render(chat, train_on=TrainOn.ANSWERS)
