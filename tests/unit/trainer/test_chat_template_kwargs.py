"""dataset.chatTemplateKwargs: which variables are refused, and that the others reach whatever is rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import RESERVED_KWARGS, DatasetSpec
from lora_trainer.data.template_language import Template
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS, read_prepared
from pydantic import ValidationError

from tests.support.prepare_world import World, conversation
from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer

OFF = "<think>off</think>"
# Like Qwen3: a variable closes the block of reasoning before each answer.
SWITCHED = (
    "{% macro thought() %}"
    "{% if enable_thinking is defined and not enable_thinking %}" + OFF + "{% endif %}{% endmacro %}"
    + CHATML.replace("{{ message.content }}", "{{ thought() if message.role == 'assistant' }}{{ message.content }}")
    .replace("<|im_start|>assistant\n", "<|im_start|>assistant\n{{ thought() }}")
)  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "SFT": [conversation(number) for number in range(20)],
    "DPO": [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(20)],
    "GRPO": [{"prompt": f"{number}?", "answer": "yes"} for number in range(20)],
}
GRPO = {"rewards": [{"exactAnswer": {}}], "maxPromptLength": 64, "numGenerations": 4}


def decoded(path: Path) -> list[str]:
    """Every list of token ids, and every text, in a file of rows."""
    columns = pq.read_table(path).to_pydict()
    ids = [row for name, rows in columns.items() if name.endswith("_ids") for row in rows]
    texts = columns.get("prompt", []) if "row" in columns else []
    return [*texts, *(tiny_tokenizer().decode(row, skip_special_tokens=False) for row in ids)]


@pytest.mark.parametrize("method", ROWS)
def test_they_reach_all_that_is_rendered(method: str, world: World, tmp_path: Path) -> None:
    world.write("data/train.jsonl", ROWS[method])
    training = {"method": method} | ({"grpo": GRPO} if method == "GRPO" else {})
    dataset = {"chatTemplate": {"jinja": SWITCHED}}
    off = dataset | {"chatTemplateKwargs": {"enable_thinking": False}}
    evaluation = {"prompts": ["What else?"]}
    digests = set()
    for settings, shown in ((dataset, 0), (off, 1)):
        run = run_file(training=training, dataset=settings, evaluation=evaluation)
        digests.add(world.prepare_run(run).dataset.digest)
        folder = world.fetched(run, tmp_path / str(shown))
        (asked,) = read_prepared(folder).prompts
        for text in (tiny_tokenizer().decode(asked.input_ids), *prompts(folder)):
            assert text.count(OFF) == shown
    assert len(digests) == 2


def prompts(folder: Path) -> list[str]:
    """The texts of the rows that begin with a question."""
    return [
        text
        for name in (TRAIN_ROWS, EVAL_ROWS)
        for text in decoded(folder / name)
        if text.startswith("<|im_start|>user")
    ]


@pytest.mark.parametrize("chats", [True, False])
def test_what_no_template_reads_is_refused(chats: bool) -> None:
    source = "{{ date_string }}{% set shown = 1 if enable_thinking else 0 %}{{ shown }}" + CHATML
    with pytest.raises(TrainerError) as refused:
        RowTokenizer(
            backend=tiny_tokenizer(),
            special_tokens={"eos_token": "<|im_end|>"},
            template=source if chats else None,
            kwargs={"enable_thinkin": False},
        )
    assert refused.value.code is ExitCode.ConfigInvalid
    told = "never reads enable_thinkin of dataset.chatTemplateKwargs; it reads date_string, enable_thinking."
    assert (told if chats else "nothing reads enable_thinkin of dataset.chatTemplateKwargs") in refused.value.message


def test_a_variable_of_the_template_for_tools_is_read() -> None:
    special = {"eos_token": "<|im_end|>"}
    using = {"backend": tiny_tokenizer(), "special_tokens": special, "template": CHATML, "kwargs": {"strict": True}}
    RowTokenizer(**using, tool_template="{{ strict }}" + CHATML)
    with pytest.raises(TrainerError, match=r"never reads strict .* it reads no variable of yours"):
        RowTokenizer(**using)


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("{% if a %}{% set b = 1 %}{% else %}{{ b }}{% endif %}", {"a"}),
        ("{% if not a is defined %}{% set a = 1 %}{% endif %}{{ a }}", {"a"}),
        ("{% set a = a | default(true) %}{% for m in messages %}{{ m }}{{ a }}{% endfor %}", {"a", "messages"}),
        ("{% macro say(x) %}{{ x }}{{ a }}{% endmacro %}{{ say(1) }}{{ raise_exception }}", {"a"}),
    ],
)
def test_the_variables_that_a_template_is_given(source: str, settings: set[str]) -> None:
    assert Template(source).settings == settings
    assert Template(source).variables >= settings


@pytest.mark.parametrize("name", sorted(RESERVED_KWARGS))
def test_what_the_rows_set_cannot_be_set(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"the rows and the tokenizer set {name}: remove it"):
        DatasetSpec.model_validate({"uri": "s3://bucket/d.jsonl", "chatTemplateKwargs": {name: "x"}})


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, float("nan"), "x" * 1025])
def test_a_value_is_one_value(value: Any) -> None:
    with pytest.raises(ValidationError, match="chatTemplateKwargs"):
        DatasetSpec.model_validate({"uri": "s3://bucket/d.jsonl", "chatTemplateKwargs": {"a": value}})


def test_values_keep_their_type() -> None:
    given = {"a": False, "b": 1, "c": 0.5, "d": "true"}
    spec = DatasetSpec.model_validate({"uri": "s3://bucket/d.jsonl", "chatTemplateKwargs": given})
    read = DatasetSpec.model_validate_json(spec.model_dump_json(by_alias=True)).chat_template_kwargs
    assert read == given
    assert list(map(type, (read or {}).values())) == [bool, int, float, str]
