"""Rewards of an answer as TRL's own trainer calls and collects them, beside what the panel says at the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lora_trainer.contract.spec.rewards import RewardSpec
from lora_trainer.data.questions import answer_to
from lora_trainer.methods.grpo import reward_function
from lora_trainer.rewards.panel import Panel, code_file, open_panel
from trl.trainer.grpo_trainer import GRPOTrainer

CODE = (
    "def reward(completions, completion_ids, answer, **_):\n"
    "    return [None if right is None else len(ids) for ids, right in zip(completion_ids, answer)]\n"
)
SPECS = [
    {"python": {"configMapRef": {"name": "judges", "key": "judge.py"}}, "weight": 0.5},
    {"length": {"target": 2}, "weight": 2},
]
RIGHT = ["72", None, None]
"""What the rows' column `answer` has: the user's function judges the first alone."""
IDS = [[5, 6, 2], [5], []]


def collected(panel: Panel, rows: list[str], texts: list[str]) -> torch.Tensor:
    """TRL's table of answers and reward functions; not a number where a reward does not apply."""
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=True),
        args=SimpleNamespace(report_to=[]),
        environments=None,
        reward_funcs=[reward_function(judge) for judge in panel.judges],
        reward_func_names=[judge.name for judge in panel.judges],
        reward_processing_classes=[None for _ in panel.judges],
        state=SimpleNamespace(global_step=1),
        _log_completion_extra=None,
        _log_metric=None,
    )
    inputs = [{"prompt": "rendered", "row": row} for row in rows]
    prompts = [row["prompt"] for row in inputs]
    return GRPOTrainer._calculate_rewards(cast("Any", trainer), inputs, prompts, texts, IDS)


@pytest.mark.parametrize("specs", [SPECS, SPECS[:1]], ids=["beside another", "alone"])
def test_the_panel_adds_up_what_trl_learns_from(specs: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / code_file(0)).write_text(CODE)
    rows = [json.dumps({"prompt": "What is 48 + 24?", "columns": {"answer": right}}) for right in RIGHT]
    texts = ["seventy-two", "no idea", ""]
    answers = [answer_to(row, text=text, ids=ids) for row, text, ids in zip(rows, texts, IDS, strict=True)]
    with open_panel([RewardSpec.model_validate(spec) for spec in specs], tmp_path) as panel:
        table = collected(panel, rows, texts)
        judged = panel.rewards(answers)
    # GRPOTrainer._generate_and_score_completions
    weights = torch.tensor([spec["weight"] for spec in specs])
    total = (table * weights).nansum(dim=1)
    total[torch.isnan(table).all(dim=1)] = torch.nan
    assert judged == [None if torch.isnan(reward) else pytest.approx(reward.item()) for reward in total]
    assert judged[0] == 1.5 + (2 * 0.5 if len(specs) > 1 else 0)
    assert (judged[1] is None) == (len(specs) == 1)
