"""The commands of a document: what its ```bash blocks hold, by heading, and all that it names. Tests run them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = frozenset(
    """apt apt-get argocd aws bash cosign curl docker flux git go helm istioctl kind kubectl kustomize lora-operator
    make minikube mc openssl pip podman pytest python python3 skopeo ssh sudo syft uv vllm wget""".split()  # noqa: SIM905 - quoted one by one they fill a page
)
"""By whose names a command is told from other code that a sentence or an indented block shows."""
FOLLOWED = (
    "docs/quickstarts/first-run.md",
    "docs/tasks/back-up.md",
    "docs/tasks/diagnose.md",
    "docs/tasks/follow-a-run.md",
    "docs/tasks/install.md",
    "docs/tasks/offer-a-class.md",
    "docs/tasks/onboard-a-team.md",
    "docs/tasks/operate.md",
    "docs/tasks/uninstall.md",
    "docs/tasks/upgrade.md",
)
"""Every page whose ```bash blocks tests/install/test_documents.py runs."""
_ASSIGNMENTS = re.compile(r"^(?:[A-Z_]+=\S* )*")
_COMMENT = re.compile(r"\s+#.*$")


@dataclass(frozen=True, order=True, kw_only=True)
class Mention:
    """A command that a document names."""

    command: str
    """Without variables that are set for it, and without a comment."""
    complete: bool
    """It stands in a block, and so is run as it stands; a sentence may name a program only."""


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


def mentions(document: str) -> list[Mention]:
    """The commands that stand in indented blocks, after a prompt ($), and in sentences; ```bash blocks: see above."""
    found: list[Mention] = []
    prose: list[str] = []
    fenced = False
    for line in document.replace("\\\n", "").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            found += _command(line.removeprefix("$ "), complete=True) if line.startswith("$ ") else []
        elif line.startswith("    "):
            found += _command(line.strip(), complete=True)
        else:
            prose.append(line)
    for code in re.findall(r"`([^`]+)`", "\n".join(prose)):
        found += _command(" ".join(code.split()), complete=False)
    return found


def _command(text: str, *, complete: bool) -> list[Mention]:
    command = " ".join(_ASSIGNMENTS.sub("", _COMMENT.sub("", text)).split())
    program, _, arguments = command.partition(" ")
    return [Mention(command=command, complete=complete)] if program in PROGRAMS and arguments else []


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
