"""The run file of the last release. `python -m tests.released_contract tests/golden` records it at a release.

A class may name an image of that release, so the operator must not write anything that this schema refuses, unless the
run sets a field that is newer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lora_trainer.contract.run import RunFile

GOLDEN = Path(__file__).parent / "golden"
NAME = "released-run-file.schema.json"


def released() -> dict[str, Any]:
    """The JSON schema of the last release's run file."""
    return json.loads((GOLDEN / NAME).read_text())


def current() -> dict[str, Any]:
    """The JSON schema of this version's run file."""
    return RunFile.model_json_schema(by_alias=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n")
