"""The import of the libraries, in a process of its own, as it is on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.libraries import environment

PROGRAM = """
import json, sys
from pathlib import Path
from lora_trainer.libraries import import_libraries

import_libraries(scratch=Path(sys.argv[1]))
imported = [name for name in sys.modules if name.startswith("trl.experimental.")]
import trl.experimental.gold
print(json.dumps({"imported": imported, "none": [name for name, module in sys.modules.items() if module is None]}))
"""


def test_trl_s_experimental_trainers_are_not_imported_but_can_be(tmp_path: Path) -> None:
    # Unsloth's code for GPUs, on a machine without one.
    variables = environment(kind=AcceleratorKind.GPU, scratch=tmp_path) | {"UNSLOTH_ALLOW_CPU": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in told["imported"] if not name.startswith("trl.experimental.utils")] == []
    assert [name for name in told["none"] if name.startswith("trl")] == []
