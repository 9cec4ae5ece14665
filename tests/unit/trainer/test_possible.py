"""What a CPU class cannot honour is refused by name."""

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
        ({"model": {"quantization": "None"}, "lora": {"loftqConfig": {}}}, "lora.loftqConfig"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
    ],
)
def test_what_needs_a_gpu(blocks: dict[str, Any], field: str) -> None:
    with pytest.raises(TrainerError, match=rf"^{field} needs a GPU .* CPU class") as refused:
        require_possible(run_file(**blocks))
    assert refused.value.code is ExitCode.ConfigInvalid
    assert field in (refused.value.remedy or "")
    require_possible(run_file(**blocks, accelerator={"kind": "GPU", "memoryGiB": 80}))


def test_an_ordinary_run_needs_none() -> None:
    require_possible(run_file(model={"dtype": "bfloat16"}))
