"""What cannot be honoured is refused by name: beside another setting, or by a CPU class."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.possible import require_possible

from tests.support.runs import run_file

FAST = {"method": "GRPO", "grpo": {"rewards": [{"length": {"target": 9}}], "fastInference": True}}


@pytest.mark.parametrize(
    ("blocks", "field"),
    [
        ({"training": FAST}, "training.grpo.fastInference"),
        ({"model": {"loadIn4bit": False}, "lora": {"loftqConfig": {}}}, "lora.loftqConfig"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
    ],
)
def test_what_needs_a_gpu(blocks: dict[str, Any], field: str) -> None:
    with pytest.raises(TrainerError, match=rf"^{field} needs a GPU .* CPU class") as refused:
        require_possible(run_file(**blocks))
    assert refused.value.code is ExitCode.ConfigInvalid
    assert field in (refused.value.remedy or "")
    require_possible(run_file(**blocks, accelerator={"kind": "GPU", "memoryGiB": 80}))


@pytest.mark.parametrize("asked", [True, "auto"])
def test_loftq_needs_weights_in_16_bits(asked: bool | str) -> None:
    with pytest.raises(TrainerError, match=r"^lora.loftqConfig needs a 16-bit base") as refused:
        require_possible(run_file(model={"loadIn4bit": asked}, lora={"loftqConfig": {}}, accelerator={"kind": "GPU"}))
    assert refused.value.code is ExitCode.ConfigInvalid


def test_an_ordinary_run_needs_none() -> None:
    require_possible(run_file(model={"dtype": "bfloat16"}))
