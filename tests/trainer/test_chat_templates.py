"""Unsloth's named chat templates: exported as the image does it, rendered, published with their end token."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import ChatTemplateSpec
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.chat_template import PROBE, ChatTemplate
from lora_trainer.data.named_templates import VARIABLE, template_source
from lora_trainer.data.tokens import load_tokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.publishing.folder import write_tokenizer

from tests.support.demo_assets import DemoAssets

SCRIPT = Path(__file__).parents[2] / "trainer-image/export_chat_templates.py"
MAPPED_BY_UNSLOTH = {"vicuna old"}
"""Names with a space: vicuna_old is the same."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = find_spec("unsloth")
    assert found
    assert found.submodule_search_locations
    command = [sys.executable, "-S", SCRIPT, found.submodule_search_locations[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path = tmp_path_factory.mktemp("templates") / "chat_templates.json"
    path.write_text(done.stdout)
    return path


@pytest.fixture(autouse=True)
def in_the_image(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(exported))


def test_each_renders_an_answer_with_its_end(exported: Path) -> None:
    named = set(json.loads(exported.read_bytes())) - MAPPED_BY_UNSLOTH
    assert {"llama-3.1", "qwen-2.5", "chatml"} <= named
    for name in sorted(named):
        renders_an_answer_with_its_end(name)


def renders_an_answer_with_its_end(name: str) -> None:
    source = template_source(ChatTemplateSpec(name=name))
    assert source
    rendered = ChatTemplate(source, special_tokens={"bos_token": "<bos>", "eos_token": "<eos>"}).render(
        PROBE, train_on=TrainOn.ANSWERS
    )
    ((start, end),) = rendered.answers
    answer = rendered.text[start:end]
    before, _, ending = answer.partition(PROBE.turns[-1].content)
    assert ending.lstrip().startswith("<"), "an answer that never ends is never learned to end"
    assert PROBE.turns[0].content not in answer
    assert len(before) < 40, "only what an answer begins with"


def test_the_end_token_of_a_named_template_is_trained(assets: DemoAssets) -> None:
    tokenizer = load_tokenizer(assets.model, chat_template=template_source(ChatTemplateSpec(name="chatml")), chats=True)
    assert tokenizer.eos_token_id == 2, "<|im_end|>"


def test_a_template_of_another_vocabulary_is_refused(assets: DemoAssets) -> None:
    with pytest.raises(TrainerError, match=r"<\|start_header_id\|>") as caught:
        load_tokenizer(assets.model, chat_template=template_source(ChatTemplateSpec(name="llama-3.1")), chats=True)
    assert caught.value.code is ExitCode.ChatTemplateInvalid


def test_template_and_end_token_are_published(assets: DemoAssets, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    write_tokenizer(tmp_path, base=assets.model, chat_template=source, end=0)
    published = AutoTokenizer.from_pretrained(tmp_path)
    assert (published.chat_template, published.eos_token, published.eos_token_id) == (source, "<|endoftext|>", 0)
    write_tokenizer(tmp_path / "own", base=assets.model, chat_template=None, end=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "own").eos_token == "<|im_end|>", "the base's own is left alone"
