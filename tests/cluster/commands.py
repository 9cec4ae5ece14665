"""Running other programs, and the two errors of this program. Not a shell: arguments are lists."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence


class ClusterError(Exception):
    """Something that the user must know or do, as a sentence."""


class RequirementError(ClusterError):
    """This machine or user lacks what a verb needs; nothing was changed."""


def run(
    argv: Sequence[object], *, stdin: str | None = None, env: Mapping[str, str] | None = None, cwd: object = None
) -> str:
    """Run a program to its end and return its standard output.

    Raises ClusterError with the command and the end of its standard error when it fails.
    """
    words = [str(word) for word in argv]
    completed = subprocess.run(
        words,
        input=stdin,
        env={**os.environ, **env} if env else None,
        cwd=str(cwd) if cwd else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        tail = "\n".join((completed.stderr or completed.stdout).strip().splitlines()[-15:])
        raise ClusterError(f"`{' '.join(words)}` ended with exit code {completed.returncode}:\n{tail}")
    return completed.stdout


def require_root(*, verb: str) -> None:
    """Raise RequirementError unless the user is root."""
    if os.geteuid():
        raise RequirementError(
            f"`{verb}` needs root, because it starts containers and changes network and mounts: run it with sudo."
        )


def require_program(name: str, *, remedy: str) -> None:
    """Raise RequirementError unless `name` is on PATH (sbin folders included)."""
    if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        raise RequirementError(f"The program `{name}` is not installed: {remedy}")
