"""What a run is limited to: `make test CHANGED=1` writes it (tests/changed.py), and every suite and part reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "LORA_OPERATOR_TEST_SELECTION"
"""Names the file; unset, everything is run."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is run, and nothing else."""

    targets: list[str]
    """Make targets."""
    suites: Mapping[str, list[str] | None]
    """The files of a suite, or None for all of them."""

    def tests(self, suite: str) -> tuple[str, ...] | None:
        """The files of a suite, or None for all of them."""
        chosen = self.suites.get(suite, [])
        return None if chosen is None else tuple(chosen)


def write(selection: Selection, file: Path) -> None:
    """Keep it for the processes that are started."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(selection), indent=2) + "\n")


def read() -> Selection | None:
    """What the environment names; None for everything."""
    file = os.environ.get(VARIABLE)
    return Selection(**json.loads(Path(file).read_text())) if file else None
