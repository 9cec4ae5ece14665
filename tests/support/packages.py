"""Data out of published packages: installed from hashed requirements, and made once into the project's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
UV = REPOSITORY / ".venv/bin/uv"


def cache_folder() -> Path:
    """The project's cache, wherever the user keeps caches."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LORA_OPERATOR_CACHE") or user_cache / "lora-operator")


def made_once(folder: Path, make: Callable[[Path, Path], None]) -> Path:
    """The folder, which `make` fills if it is not there: it is given a scratch folder, and the one in it to fill.

    The folder appears whole or not at all, so two callers do no harm.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as work:
            made = Path(work) / "made"
            made.mkdir()
            make(Path(work), made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster
                    raise
    return folder


def install(requirements: Path, target: Path) -> None:
    """Install packages of a file with hashes into a folder, and nothing that they depend on."""
    if not UV.exists():
        raise SystemExit(f"{UV} is missing: run `make venv` first.")
    command = [UV, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--link-mode=copy"]
    subprocess.run([*command, "--python", sys.executable, "--target", target, "-r", requirements], check=True)
