"""What is said when memory runs out: by torch's own errors, in each stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import Phase
from lora_trainer.errors import TrainerError
from lora_trainer.model_shape import model_shape
from lora_trainer.sizing import DataSize, size_run
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.device_errors import explained

from tests.support.runs import run_file
from tests.support.tiny_model import CONFIG

FOUR_PETABYTES = 2**52


@pytest.mark.parametrize(
    ("phase", "model", "code", "said", "remedy"),
    [
        (Phase.LOADING, {}, "DoesNotFit", "while the model was loaded: the model does not fit", "a class with more"),
        (
            Phase.LOADING,
            {"quantization": "None"},
            "DoesNotFit",
            "while the model was loaded",
            "set model.quantization: NF4",
        ),
        (Phase.TRAINING, {}, "OutOfMemory", "after step 3 of 60 with 1 rows per forward pass", "perDeviceTrainBatch"),
        (Phase.EVALUATING, {}, "OutOfMemory", "in the evaluation after training with one row", "model.maxSeqLength"),
    ],
)
def test_memory_that_runs_out_is_told_with_the_numbers(
    phase: Phase, model: dict[str, Any], code: str, said: str, remedy: str
) -> None:
    run = run_file(model=model, accelerator={"kind": "CPU", "memoryGiB": 8})
    _, chosen = size_run(run, model_shape(CONFIG), DataSize(lengths=10 * [100], tokens=1000))
    progress = ProgressServer(port=0)
    progress.update(phase=phase, step=3, total_steps=60)
    with pytest.raises(TrainerError) as told, explained(run, chosen, progress):
        torch.empty(FOUR_PETABYTES)
    assert told.value.code == ExitCode[code]
    assert said in told.value.message
    assert " GiB of 8 held)" in told.value.message
    assert remedy in (told.value.remedy or "")


def test_other_errors_stay_what_they_are() -> None:
    run = run_file()
    _, chosen = size_run(run, model_shape(CONFIG), DataSize(lengths=10 * [100], tokens=1000))
    with pytest.raises(RuntimeError, match="mat1 and mat2"), explained(run, chosen, ProgressServer(port=0)):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
