"""Epochs: transformers' trainer passes each row as often as training.numTrainEpochs says, whatever the batch is."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_trainer.packing import DataSize
from lora_trainer.sizing import size_run
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from tests.support.runs import run_file
from tests.support.sizing import SHAPE


class Rows(Dataset):
    """As many rows, each its own number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, int]:
        return {"row": row}


class Counting(torch.nn.Module):
    """Counts the rows that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.passes: Counter[int] = Counter()

    def forward(self, row: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        self.passes.update(row.tolist())
        return {"loss": self.weight.sum()}


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_passed_once_an_epoch(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    rows, epochs, micro_batch, accumulation = (draw.randint(1, most) for most in (40, 4, 9, 9))
    training = {"maxSteps": None, "numTrainEpochs": epochs}
    training |= {"perDeviceTrainBatchSize": micro_batch, "gradientAccumulationSteps": accumulation}
    _, chosen = size_run(run_file(training=training), SHAPE, DataSize(lengths=[100] * rows, tokens=100 * rows))
    assert passed(chosen.max_steps, rows, micro_batch, accumulation, tmp_path) == dict.fromkeys(range(rows), epochs)


def passed(max_steps: int, rows: int, micro_batch: int, accumulation: int, folder: Path) -> Counter[int]:
    model = Counting()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(rows)).train()
    return model.passes
