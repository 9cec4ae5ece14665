"""Base and adapter compared on several sets of prepared rows, with a model of random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.prepared import EVAL_ROWS, set_rows
from lora_trainer.train import compare, measure

from tests.support.prepare_world import a_world, conversation
from tests.support.runs import run_file
from tests.support.tiny_adapter import tiny_adapter

SETS = {"first": 2, "second": 5}
"""How many rows of each further set are evaluated on."""


@pytest.mark.parametrize("method", ["SFT", "DPO"])
def test_each_set_has_figures_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def row(number: int) -> dict[str, Any]:
        question, answer = conversation(number)["messages"]
        said = [{**answer, "content": f"{answer['content']}!"}]
        return (
            {"messages": [question, answer]}
            if method == "SFT"
            else {"chosen": [question, answer], "rejected": [question, *said]}
        )

    asked = {
        "datasets": [
            {"name": name, "uri": f"s3://team-a/data/{name}.jsonl", "maxRows": rows} for name, rows in SETS.items()
        ],
        "exactMatch": {"rows": 1},
        "samples": 0,
    }
    run = run_file(evaluation=asked, training={"method": method})
    with a_world(tmp_path, monkeypatch) as world:
        world.write("data/train.jsonl", [row(number) for number in range(40)])
        for number, name in enumerate(SETS, start=1):
            world.write(f"data/{name}.jsonl", [row(1000 * number + each) for each in range(8)])
        world.prepare_run(run)
        folder = world.fetched(run, tmp_path / "set")
    model, tokenizer = tiny_adapter(tmp_path / "model")
    this = cast("Any", SimpleNamespace(run=run, prepared=folder))
    file = compare(this, model, tokenizer, prompts=(), dtype="float32")

    def alone(path: str, spec: EvaluationSpec) -> dict[str, Any]:
        return measure(this, model, tokenizer, folder / path, spec=spec, prompts=(), dtype="float32").figures.wire()

    assert file.figures.sets is not None
    assert [(each.name, each.rows, each.answers) for each in file.figures.sets] == [("first", 2, 1), ("second", 5, 1)]
    for each, spec in zip(file.figures.sets, run.evaluation.datasets, strict=True):
        assert each.wire() == {"name": each.name} | alone(set_rows(each.name), run.evaluation.of_set(spec))
    assert {name: value for name, value in file.figures.wire().items() if name != "sets"} == alone(
        EVAL_ROWS, run.evaluation
    )
    losses = {file.figures.loss, *(each.loss for each in file.figures.sets)}
    assert len(losses) == 3
