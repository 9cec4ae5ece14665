"""One of the families on a CPU, as `python -m tests.families` trains all of them on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.demo_assets import DemoAssets


def test_a_small_model_of_a_family_trains(assets: DemoAssets, tmp_path: Path) -> None:
    def run(module: str, *arguments: str | Path) -> str:
        command = [sys.executable, "-m", f"tests.families.{module}", *arguments]
        return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout

    run("models", "Qwen3", tmp_path / "model", "--tokenizer", assets.model)
    seen = json.loads(run("train", tmp_path, "--cpu").strip().rpartition("\n")[2])
    assert "error" not in seen
    assert seen["class"] == "Qwen3ForCausalLM"
    assert seen["adapters"] == 4 * 7, "seven layers in each of four decoder layers"
    assert seen["first_batch"] == {"rows": 1}
    assert seen["learned"]
    assert len(seen["losses"]) == 2
