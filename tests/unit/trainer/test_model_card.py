"""The model card: what it says, and that nothing in it can break its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_trainer.contract.outcome import Evaluation, SetFigures
from lora_trainer.evaluation.comparison import EvaluationFile, PromptAnswers, Sample
from lora_trainer.publishing.model_card import model_card

from tests.builders import an_evaluation, prepare_result
from tests.support.runs import run_file


def card(
    *,
    figures: Evaluation | None = None,
    model: str = "meta-llama/Llama-3.2-1B",
    dataset: Mapping[str, Any] | None = None,
    **answers: Any,
) -> str:
    evaluation = EvaluationFile(figures=figures or an_evaluation(), probe="", **answers)
    run = run_file(model={"name": model}, dataset=dataset or {})
    return model_card(run, prepared=prepare_result(), steps=420, evaluation=evaluation, versions={"peft": "0.21.2"})


def test_everything_needed_to_make_it_again_is_there() -> None:
    text = card()
    for part in ("base_model: meta-llama/Llama-3.2-1B", "- peft 0.21.2", "0cb88a4f764b", "b" * 64, "d" * 64):
        assert part in text
    assert "| loss per token | 1.9000 | 0.6000 |" in text
    assert "- optimizer steps: 420 of 600" in text
    assert "exact match" not in text


def test_a_folder_is_not_linked_as_a_hub_model() -> None:
    text = card(model="s3://team-a/models/smollm2")
    assert "base_model:" not in text
    assert "# LoRA adapter of s3://team-a/models/smollm2" in text


def test_the_variables_of_the_chat_template_are_those_to_ask_with() -> None:
    assert '{"chat_template_kwargs": {"think": false}}' in card(dataset={"chatTemplateKwargs": {"think": False}})
    assert "chat_template_kwargs" not in card()


def test_exact_match_is_shown_where_it_was_measured() -> None:
    matched = {"answers": 8, "base_exact_match": 0.125, "exact_match": 0.75}
    assert "| exact match of 8 answers | 0.1250 | 0.7500 |" in card(figures=an_evaluation().model_copy(update=matched))


def test_rewards_are_shown_where_they_were_measured() -> None:
    preferred = an_evaluation().model_copy(update={"reward_accuracy": 0.75, "reward_margin": 1.5})
    assert "| pairs with the chosen answer preferred | | 0.7500 |" in card(figures=preferred)
    judged = card(
        figures=Evaluation(rows=4, base_reward=0.25, reward=0.5), samples=(Sample(prompt="Q", base="B", adapter="A"),)
    )
    assert "| mean reward | 0.2500 | 0.5000 |" in judged
    assert "loss per token" not in judged
    assert "reference" not in judged


def test_further_sets_have_tables_of_their_own() -> None:
    assert "rows of" not in card()
    sets = (SetFigures(name="sums", rows=7, base_loss=2.5, loss=0.5), SetFigures(name="codes", rows=9))
    text = card(figures=Evaluation(rows=4, base_loss=1.5, loss=0.75, sets=sets))
    assert "| 4 held-out rows | base | adapter |\n|---|---|---|\n| loss per token | 1.5000 | 0.7500 |\n\n" in text
    assert "| 7 rows of sums | base | adapter |\n|---|---|---|\n| loss per token | 2.5000 | 0.5000 |\n\n" in text
    assert "| 9 rows of codes | base | adapter |" in text


def test_no_answer_can_end_its_own_fence() -> None:
    nasty = "~~~\n# Not a heading\n~~~~"
    sample = Sample(prompt="Q", reference="R", base="B", adapter=nasty)
    text = card(samples=(sample,), prompts=(PromptAnswers(prompt="Mine", base="b", adapter="a"),))
    assert f"adapter:\n~~~~~\n{nasty}\n~~~~~\n" in text
    assert "prompt:\n~~~\nMine\n~~~" in text
    assert "system:" not in text
    led = card(prompts=(PromptAnswers(system="Be brief.", prompt="Mine", base="b", adapter="a"),))
    assert "system:\n~~~\nBe brief.\n~~~\n\nprompt:\n~~~\nMine\n~~~" in led
