"""`python -m tests.families --tokenizer FOLDER`: trains every family on this machine's GPU: results/families.json.

Each family is trained as a run would be, and once more with the other loader, or packed where a run would not pack. A
GPU with 16 processors takes two minutes for a dozen: most of it is Unsloth's compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_trainer.libraries import versions

from benchmarks.gpu_machine import read_machine
from tests.families.table import FAMILIES

RESULTS = Path("benchmarks/results/families.json")
PROCESSES = 16
LIMIT_SECONDS = 220
VARIANTS: dict[str, Sequence[str]] = {
    "as a run": (),
    "FastLanguageModel": ("--loader", "FastLanguageModel"),
    "packed": ("--forced",),
}


def played(family: str, variant: str, *, tokenizer: Path, until: float) -> dict[str, Any]:
    """What the family's processes saw; none begins after `until`."""
    found, began = {"family": family, "variant": variant}, time.monotonic()
    if began > until:
        return found | {"error": "not begun: no time was left"}
    with tempfile.TemporaryDirectory(prefix="family-", ignore_cleanup_errors=True) as work:
        try:
            ended("tests.families.models", family, f"{work}/model", "--tokenizer", tokenizer)
            seen = json.loads(ended("tests.families.train", work, *VARIANTS[variant]).strip().rpartition("\n")[2])
        except subprocess.TimeoutExpired:
            seen = {"error": f"took more than {LIMIT_SECONDS} s"}
        except subprocess.CalledProcessError as error:
            seen = {"error": f"exit code {error.returncode}", "trace": error.stderr[-1500:]}
    return found | {"seconds": round(time.monotonic() - began)} | seen


def ended(module: str, *arguments: str | Path) -> str:
    """What the module printed."""
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_SECONDS, env=environment, check=True
    ).stdout


def all_played(
    tokenizer: Path, *, families: Sequence[str], variants: Sequence[str], until: float
) -> Iterator[dict[str, Any]]:
    """Each family and variant, as it ends."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        waiting = [
            pool.submit(played, family, variant, tokenizer=tokenizer, until=until)
            for variant in variants
            for family in families
        ]
        for done in as_completed(waiting):
            yield done.result()


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer with 49152 tokens")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seconds", type=float, default=480, help="after which no further process is started")
    arguments = parser.parse_args()
    header = {"date": datetime.now(UTC).date().isoformat(), "gpu": read_machine().gpu, "versions": versions()}
    until, results = time.monotonic() + arguments.seconds, []
    for result in all_played(
        arguments.tokenizer, families=arguments.families, variants=arguments.variants, until=until
    ):
        results.append({key: value for key, value in result.items() if key != "trace"})
        print(json.dumps(result), flush=True)
        arguments.out.write_text(json.dumps({**header, "families": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
