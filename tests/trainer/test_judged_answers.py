"""Answers that a model with random weights generates, as the rewards of the evaluation are given them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.evaluation.answers import answer_ids
from lora_trainer.evaluation.comparison import EvaluationFile
from lora_trainer.evaluation.rewards import HeldOutPrompt, evaluate_rewards
from lora_trainer.rewards.builtin import Answer
from lora_trainer.rewards.panel import Judge, Judgement, Panel
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from tests.support.tiny_adapter import tiny_adapter

LONGEST = 12
PROMPTS = ([5, 6, 7], [8], [9, 10])
QUESTIONS = [
    HeldOutPrompt(prompt="p", prompt_ids=ids, row=f'{{"prompt": "p", "columns": {{"number": {number}}}}}', question="q")
    for number, ids in enumerate(PROMPTS)
]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    return tiny_adapter(tmp_path / "model")


def judged(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, judge: Judgement, *, samples: int = 2
) -> EvaluationFile:
    return evaluate_rewards(
        model,
        tokenizer,
        QUESTIONS,
        panel=Panel(judges=(Judge(name="judge", weight=2, judge=judge),), functions=()),
        longest=LONGEST,
        spec=EvaluationSpec(samples=samples),
        prompts=(),
        dtype="float32",
    )


def test_an_answer_has_the_tokens_up_to_its_end(tiny: tuple[PeftModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    whole = answer_ids(model, tokenizer, PROMPTS, max_tokens=[LONGEST] * len(PROMPTS))
    assert [len(ids) for ids in whole] == [LONGEST] * len(PROMPTS)
    end = whole[0][4]
    assert model.generation_config
    model.generation_config.eos_token_id = end
    seen: list[Answer] = []

    def judge(answers: Sequence[Answer]) -> list[float]:
        seen.extend(answers)
        return [1.0 for _ in answers]

    file = judged(model, tokenizer, judge)
    expected = [ids[: ids.index(end) + 1] if end in ids else ids for ids in whole]
    tuned, base = seen[: len(PROMPTS)], seen[len(PROMPTS) :]
    assert [list(answer.ids) for answer in tuned] == expected
    assert len(expected[0]) < LONGEST
    assert all(answer.text == tokenizer.decode(list(answer.ids), skip_special_tokens=True) for answer in seen)
    assert [answer.columns["number"] for answer in base] == [0, 1, 2]
    assert [sample.adapter for sample in file.samples] == [answer.text.strip() for answer in tuned[:2]]
    assert (file.figures.reward, file.figures.base_reward) == (2, 2)


@pytest.mark.parametrize(("given", "mean"), [([None, 3.0, 4.0], 7.0), ([None, None, None], None)])
def test_an_answer_without_a_reward_is_left_out(
    tiny: tuple[PeftModel, PreTrainedTokenizerBase], given: list[float | None], mean: float | None
) -> None:
    file = judged(*tiny, lambda _: given, samples=0)
    assert (file.figures.base_reward, file.figures.reward) == (mean, mean)
    assert file.samples == ()
