"""What bytecode leaves out: tests and applications that packages carry along, and models of rare families."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements/compile_bytecode.py"
LEFT_OUT = runpy.run_path(str(SCRIPT))["LEFT_OUT"]


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("torch/nn/modules/linear.py", False),
        ("torch/testing/_comparison.py", False),
        ("torch/testing/_internal/common_utils.py", True),
        ("pandas/core/frame.py", False),
        ("pandas/tests/frame/test_api.py", True),
        ("unsloth/models/llama.py", False),
        ("unsloth_zoo/compiler.py", False),
        ("unsloth_cli/__init__.py", True),
        ("studio/backend/main.py", True),
        ("transformers/trainer.py", False),
        ("transformers/models/__init__.py", False),
        ("transformers/models/auto/configuration_auto.py", False),
        ("transformers/models/qwen3/modeling_qwen3.py", False),
        ("transformers/models/qwen3_omni_moe/modeling_qwen3_omni_moe.py", True),
        ("transformers/models/gemma3/modeling_gemma3.py", False),
        ("transformers/models/whisper/modeling_whisper.py", True),
        ("testing_tools.py", False),
    ],
)
def test_what_trainers_import_is_compiled_and_what_they_do_not_is_left_out(path: str, left_out: bool) -> None:
    assert bool(LEFT_OUT.search(f"/opt/venv/lib/python3.11/site-packages/{path}")) is left_out
