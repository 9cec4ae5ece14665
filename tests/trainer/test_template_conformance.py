"""Chat templates of TRL and Unsloth with every kind of conversation: trained right, or refused with the reason.

The templates are read from the installed packages. A byte-level tokenizer with the special tokens of each template
stands for its model's; the templates of some families are tried with their own tokenizers too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lora_trainer.contract.spec.dataset import RowFormat
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.chat_template import MARKUP, ChatTemplate
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import answers_encoder
from lora_trainer.data.tokens import RowTokenizer, TokenRow
from lora_trainer.errors import TrainerError

from tests.support.real_tokenizers import FAMILIES, real_tokenizer
from tests.support.tiny_model import tiny_tokenizer

SCRIPT = Path(__file__).parents[2] / "trainer-image/export_chat_templates.py"
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather_of",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "A city."}}},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather_of", "arguments": {"city": "Oslo"}}}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


TURNS = [user("Question one?"), assistant("Answer one."), user("Question two?"), assistant("Answer two.")]
CALLS = [
    user("Weather in the north?"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "name": "weather_of", "tool_call_id": "call00001", "content": "21 degrees"},
    assistant("It is warm."),
]
KINDS: Mapping[str, tuple[list[dict[str, Any]], list[list[str]], TrainOn]] = {
    "plain chat": (TURNS[:2], [["Answer one."]], TrainOn.ANSWERS),
    "system": ([{"role": "system", "content": "Be brief."}, *TURNS[:2]], [["Answer one."]], TrainOn.ANSWERS),
    "several turns": (TURNS, [["Answer one."], ["Answer two."]], TrainOn.ANSWERS),
    "last answer only": (TURNS, [["Answer two."]], TrainOn.LAST_ANSWER),
    "tools and calls": (CALLS, [["weather_of", "Oslo"], ["It is warm."]], TrainOn.ANSWERS),
    "tools, last answer only": (CALLS, [["It is warm."]], TrainOn.LAST_ANSWER),
    "calls of tools that the row does not list": (
        [*CALLS],
        [["weather_of", "Oslo"], ["It is warm."]],
        TrainOn.ANSWERS,
    ),
    "reasoning": (
        [TURNS[0], assistant("Answer one.", reasoning_content="I think so.")],
        [["I think so.", "Answer one."]],
        TrainOn.ANSWERS,
    ),
    "reasoning in each turn": (
        [
            TURNS[0],
            assistant("Answer one.", reasoning_content="I think so."),
            TURNS[2],
            assistant("Answer two.", reasoning_content="Then so."),
        ],
        [["I think so.", "Answer one."], ["Then so.", "Answer two."]],
        TrainOn.ANSWERS,
    ),
    "reasoning in the content": (
        [TURNS[0], assistant("<think>\nI think so.\n</think>\n\nAnswer one.")],
        [["I think so.", "Answer one."]],
        TrainOn.ANSWERS,
    ),
}
"""Messages, what each trained answer must hold, and what is trained on."""


REFUSED = re.compile(
    r"the chat template refuses it \(.+\)"
    r"|the chat template does not show .+; set dataset\.chatTemplate to one that does"
    r"|ends an answer with .+ instead of an end token"
)
"""Sentences of a refusal."""
RIGHT = {
    "system": {"trl/phi3", "trl/gptoss", "trl/qwen3", "trl/gemma3", "unsloth/llama-3.1"},
    "tools and calls": {
        "trl/qwen2_5",
        "trl/qwen3",
        "trl/qwen3_training",
        "trl/gptoss",
        "trl/llama3_1",
        "unsloth/gemma-4-thinking",
        "unsloth/qwen3-thinking",
    },
    "calls of tools that the row does not list": {"trl/deepseekv3", "trl/deepseekv3_training", "trl/qwen2_5"},
    "tools, last answer only": {"trl/qwen2_5", "trl/qwen3", "trl/gptoss", "trl/llama3_1"},
    "reasoning": {"trl/qwen3", "trl/qwen3_training", "unsloth/qwen3-thinking"},
    "reasoning in each turn": {"trl/qwen3", "trl/qwen3_training", "trl/qwen3_5_think", "unsloth/qwen3-thinking"},
    "reasoning in the content": {"trl/qwen3", "trl/qwen3_training", "trl/deepseek_r1_distill_training"},
}
"""Some that must not be refused. Of the kinds without an entry all but those that are UNUSABLE must not."""
ONE_BY_ONE = {
    "several turns": {
        *(f"trl/{name}" for name in ("qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6")),
        *(f"unsloth/{name}" for name in ("qwen-3", "qwen3", "qwen3-thinking")),
    },
    "tools and calls": {"trl/qwen3", "unsloth/qwen-3", "unsloth/qwen3", "unsloth/qwen3-thinking"},
}
"""Those that write an answer otherwise once more messages follow: each answer is a sample of its own."""
UNUSABLE = {"trl/glm4moe"}
"""That which refuses a plain chat: it writes no end token."""
OWN = {
    "deepseek": ("trl/deepseekv3", "trl/deepseekv3_training"),
    "llama-3": ("trl/llama3", "trl/llama3_training", "trl/llama3_1", "trl/llama3_2", "unsloth/llama-3"),
    "mistral": ("unsloth/mistral",),
    "mistral-nemo": ("unsloth/mistral",),
    "qwen": ("trl/qwen2_5", "trl/qwen2_5_training", "unsloth/qwen-2.5", "unsloth/chatml"),
}
"""The templates of families whose tokenizers are published in packages."""


@pytest.fixture(scope="module")
def shipped() -> dict[str, str]:
    return shipped_templates()


@pytest.fixture(scope="module")
def tokenizers(shipped: dict[str, str]) -> dict[str, RowTokenizer | str]:
    """A tokenizer with each template, or why the template is refused."""
    made = {source: tokenizer(source) for source in set(shipped.values())}
    return {name: made[source] for name, source in shipped.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_trained_right_or_refused(kind: str, tokenizers: dict[str, RowTokenizer | str]) -> None:
    outcomes = {name: using if isinstance(using, str) else outcome(using, kind) for name, using in tokenizers.items()}
    right = {name for name, told in outcomes.items() if told == "right"}
    assert len(outcomes) > 100
    assert not {name: told for name, told in outcomes.items() if name not in right and not REFUSED.search(told)}
    assert RIGHT.get(kind, set(outcomes) - UNUSABLE) <= right
    if kind in ONE_BY_ONE:
        assert {name for name in right if len(samples(tokenizers[name], kind)) > 1} == ONE_BY_ONE[kind]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("trl/qwen3", {"enable_thinking"}),
        ("trl/llama3_1", {"builtin_tools", "custom_tools", "date_string", "tools_in_user_message"}),
        ("trl/gptoss", {"builtin_tools", "model_identity", "reasoning_effort"}),
        ("unsloth/chatml", set()),
    ],
)
def test_the_variables_that_a_run_may_set(name: str, settings: set[str]) -> None:
    template = ChatTemplate(shipped_templates()[name], special_tokens=SPECIAL)
    assert template.settings == settings
    assert all(map(template.reads, settings))


@pytest.mark.parametrize("kind", ["plain chat", "system", "several turns", "last answer only"])
@pytest.mark.parametrize(("family", "template"), [(family, name) for family, names in OWN.items() for name in names])
def test_a_familys_templates_are_trained_right_with_its_own_tokenizer(
    family: str, template: str, kind: str, shipped: dict[str, str]
) -> None:
    using = RowTokenizer(
        backend=real_tokenizer(family),
        special_tokens=FAMILIES[family].special_tokens,
        template=shipped[template],
    )
    assert outcome(using, kind) == "right"


def shipped_templates() -> dict[str, str]:
    """The templates by package and name."""
    trl, unsloth = (package_folder(name) for name in ("trl", "unsloth"))
    command = [sys.executable, "-S", SCRIPT, unsloth]
    named = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shipped = {f"trl/{path.stem}": path.read_text() for path in sorted((trl / "chat_templates").glob("*.jinja"))}
    return shipped | {f"unsloth/{name}": source for name, source in json.loads(named).items()}


def package_folder(name: str) -> Path:
    found = find_spec(name)
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def tokenizer(source: str) -> RowTokenizer | str:
    tokens = dict.fromkeys([*SPECIAL.values(), *MARKUP.findall(source), "<think>", "</think>"])
    try:
        return RowTokenizer(backend=tiny_tokenizer(special=tuple(tokens)), special_tokens=SPECIAL, template=source)
    except TrainerError as error:
        return error.message


def samples(using: RowTokenizer | str, kind: str) -> list[TokenRow]:
    """What becomes of the conversation. Raises RowError."""
    assert isinstance(using, RowTokenizer)
    messages, _, train_on = KINDS[kind]
    record = {"messages": messages, "tools": [TOOL] if messages is CALLS else []}
    return list(using.encode(answers_encoder(using, RowFormat.MESSAGES, None, train_on=train_on).draft(record)))


def outcome(using: RowTokenizer, kind: str) -> str:
    """Why the conversation is refused, or that what is trained of it is right. Fails where it is not."""
    messages, answers, _ = KINDS[kind]
    try:
        rows = samples(using, kind)
    except RowError as error:
        return str(error)
    shown = [using.marked(row.input_ids, row.completion_mask) for row in rows]
    found = [part for text in shown for part in re.findall("⟦(.*?)⟧", text, re.DOTALL)]
    assert len(found) == len(answers), shown
    others = [message["content"] for message in messages if message["role"] != "assistant"]
    for trained, parts in zip(found, answers, strict=True):
        assert all(part in trained for part in parts), shown
        assert not any(other in trained for other in others), shown
    # The last message of each sample is its last answer.
    last = [index for index, message in enumerate(messages) if message["role"] == "assistant"][-len(rows) :]
    for row, index, parts in zip(rows, last, answers[-len(rows) :], strict=True):
        asked = using.marked(row.prompt_ids, [0] * row.prompt_length)
        assert parts[-1] not in asked, shown
        assert messages[index - 1]["content"] in asked, shown
    return "right"
