"""What a chat template does not write is said, and never trained without it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.chat_template import ChatTemplate, Rendered
from lora_trainer.data.columns import RowError
from lora_trainer.data.conversations import conversation, turns_of

from tests.properties.rows import tried_on
from tests.support.tiny_model import CHATML

# Like Qwen 2.5.
WRITES_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITES_REASONING = CHATML.replace(
    "{{ message.content }}",
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}",
)
STRIPS_REASONING = CHATML.replace("message.content", "message.content.split('</think>')[-1]")
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def call(name: str = "get_weather", **arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content: str = "Weather in Oslo?") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


CALLED = [
    user(),
    assistant("", tool_calls=[call(city="Oslo")]),
    {"role": "tool", "content": "21 C", "tool_call_id": "call_1"},
    assistant("It is 21 C in Oslo."),
]


def render(
    source: str, messages: list[dict[str, Any]], *, tools: list[Any] | None = None, train_on: TrainOn = TrainOn.ANSWERS
) -> Rendered:
    template = ChatTemplate(source, special_tokens={})
    return template.render(
        conversation(turns_of(messages, "messages"), {"tools": tools or []}, "messages"), train_on=train_on
    )


def trained(source: str, messages: list[dict[str, Any]], **settings: Any) -> list[str]:
    rendered = render(source, messages, **settings)
    return [rendered.text[start:end] for start, end in rendered.answers]


def test_calls_and_tools_are_trained_where_the_template_writes_them() -> None:
    assert trained(WRITES_TOOLS, CALLED, tools=[TOOL]) == [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
        "It is 21 C in Oslo.<|im_end|>",
    ]


NO_ARGUMENTS = WRITES_TOOLS.replace("{{ call.function.arguments | tojson }}", "{}")
NO_NAME = WRITES_TOOLS.replace("{{ call.function.name }}", "")
ONE_CALL = WRITES_TOOLS.replace("message.tool_calls or []", "(message.tool_calls or [])[:1]")
TRUNCATES = CHATML.replace("message.content", "message.content[:20]")
NO_SYSTEM = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")


@pytest.mark.parametrize(
    ("source", "messages", "words"),
    [
        (CHATML, CALLED, r"does not show the tool calls of messages\[1\]; set dataset.chatTemplate .*qwen-2.5"),
        (CHATML, [user(), assistant("get_weather", tool_calls=[call()])], r"the tool calls of messages\[1\]"),
        (NO_ARGUMENTS, CALLED, r"the tool calls of messages\[1\]"),
        (NO_NAME, CALLED, r"the tool calls of messages\[1\]"),
        (ONE_CALL, [user(), assistant("", tool_calls=[call(), call("other")])], r"the tool calls of messages\[1\]"),
        (CHATML, [user(), assistant("Fine.", reasoning_content="Fine.")], r"reasoning_content of messages\[1\]"),
        (WRITES_REASONING, [user(), assistant("Fine.", thinking="hm")], r"thinking of messages\[1\]"),
        (
            STRIPS_REASONING,
            [user("0+1?"), assistant("<think>\nI count on from 0.\n</think>\n\n1")],
            r"the reasoning in the content of messages\[1\]; .*qwen3-thinking",
        ),
        (STRIPS_REASONING, [user("1 </think> 2?"), assistant("3")], r"the content of messages\[0\]"),
        (TRUNCATES, [user(), assistant("An answer of more than twenty.")], r"the content of messages\[1\]"),
        (NO_SYSTEM, [SYSTEM, user(), assistant("ok")], r"the content of messages\[0\]"),
    ],
)  # fmt: skip
def test_what_is_not_written_is_refused(source: str, messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(RowError, match=words):
        render(source, messages)


def test_tools_that_are_not_written_are_refused() -> None:
    with pytest.raises(RowError, match="does not show the tool get_weather of the column tools"):
        render(CHATML, [user(), assistant("get_weather")], tools=[TOOL])


def test_calls_before_the_answer_that_is_trained_must_be_written_too() -> None:
    with pytest.raises(RowError, match=r"the tool calls of messages\[1\]"):
        render(CHATML, CALLED, train_on=TrainOn.LAST_ANSWER)


def test_reasoning_of_answers_that_are_not_trained_may_be_left_out() -> None:
    chat = [user("q"), assistant("<think>hm</think>a"), user("r"), assistant("b")]
    assert trained(STRIPS_REASONING, chat, train_on=TrainOn.LAST_ANSWER) == ["b<|im_end|>"]


@pytest.mark.parametrize(
    "message",
    [
        assistant("<think>hm</think>ok"),
        assistant("  ok\n"),
        assistant("ok", reasoning_content="hm"),
        assistant("ok", reasoning_content="hm", thinking="hm"),
        assistant(""),
    ],
)
def test_what_is_written_is_accepted(message: dict[str, Any]) -> None:
    source = WRITES_REASONING.replace("{{ message.content }}", "{{ message.content | trim }}")
    (answer,) = trained(source, [user(), message])
    assert answer.endswith("<|im_end|>")


WORDS = st.text(st.sampled_from("ab {}\"'\\\n<>mark1ex\ue000é"), max_size=8)
CALLS = st.lists(
    st.builds(lambda name, arguments: call(name, **arguments), WORDS, st.dictionaries(WORDS, WORDS, max_size=2)),
    max_size=2,
)
SOURCES = [
    CHATML,
    WRITES_TOOLS,
    NO_ARGUMENTS,
    NO_NAME,
    ONE_CALL,
    STRIPS_REASONING,
    WRITES_REASONING,
    TRUNCATES,
    NO_SYSTEM,
]


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        fields: dict[str, Any] = {"tool_calls": calls} if (calls := draw(CALLS)) else {}
        if draw(st.booleans()):
            fields["reasoning_content"] = draw(WORDS)
        thought = draw(st.sampled_from(["", "<think>hm</think>"]))
        messages += [user(draw(WORDS)), assistant(thought + draw(WORDS), **fields)]
    return messages


@pytest.mark.parametrize("source", SOURCES)
@tried_on(60, tests=len(SOURCES))
@given(chats(), st.data())
def test_another_value_makes_another_text(source: str, chat: list[dict[str, Any]], data: st.DataObject) -> None:
    """Where the row is accepted, no name, argument, reasoning or content of it can change without the text."""
    try:
        before = render(source, chat).text
    except RowError:
        return
    index = data.draw(st.integers(0, len(chat) - 1))
    for changed in changes(chat[index]):
        try:
            after = render(source, [*chat[:index], changed, *chat[index + 1 :]]).text
        except RowError:
            continue
        assert after != before, changed


def changes(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The message with each one of its texts changed."""
    found = [message | {name: message[name] + "~"} for name in ("content", "reasoning_content") if name in message]
    for number, one in enumerate(message.get("tool_calls", [])):
        function = one["function"]
        others = [function | {"name": function["name"] + "~"}]
        others += [function | {"arguments": function["arguments"] | {name: "~"}} for name in function["arguments"]]
        for other in others:
            calls = [*message["tool_calls"]]
            calls[number] = one | {"function": other}
            found.append(message | {"tool_calls": calls})
    return found
