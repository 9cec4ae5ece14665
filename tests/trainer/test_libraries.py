"""The import of the libraries, in a process of its own, as it is on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.contract.spec.training import Method
from lora_trainer.libraries import environment

PROGRAM = """
import json, sys
from pathlib import Path
from lora_trainer.contract.spec.training import Method
from lora_trainer.libraries import import_libraries

import_libraries(scratch=Path(sys.argv[1]), method=Method(sys.argv[2]))
imported = [name for name in sys.modules if name.startswith("trl.") and name.endswith("_trainer")]
from trl.experimental.gold import GOLDTrainer
from trl import KTOTrainer
print(json.dumps({"imported": imported, "none": [name for name, module in sys.modules.items() if module is None]}))
"""


@pytest.mark.parametrize(
    ("method", "trainers"), [(Method.SFT, {"base", "sft"}), (Method.GRPO, {"base", "sft", "grpo"})]
)
def test_no_trainer_but_the_method_s_is_imported_and_all_can_be(
    tmp_path: Path, method: Method, trainers: set[str]
) -> None:
    # Unsloth's code for GPUs, on a machine without one.
    variables = environment(kind=AcceleratorKind.GPU, scratch=tmp_path) | {"UNSLOTH_ALLOW_CPU": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, method],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["imported"]) == {f"trl.trainer.{name}_trainer" for name in trainers}
    assert [name for name in told["none"] if name.startswith("trl")] == []
