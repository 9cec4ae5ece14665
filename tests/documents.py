"""The commands of a document: what its ```bash blocks hold, by heading. Tests run them as they stand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def commands(document: str) -> dict[str, str]:
    """The commands below each heading that has some."""
    found: dict[str, str] = {}
    title, block = "", None
    for line in document.splitlines(keepends=True):
        if line.startswith("```"):
            block = line.strip() if block is None else None
        elif block == "```bash":
            found[title] = found.get(title, "") + line
        elif block is None and line.startswith("#"):
            title = line.lstrip("#").strip()
    return found


def execute(script: str, *, folder: Path, environment: Mapping[str, str]) -> str:
    """Run commands in the folder as somebody would who copies them; raises AssertionError with what they printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-x"],
        input=script,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}:\n{done.stdout}")
    return done.stdout
