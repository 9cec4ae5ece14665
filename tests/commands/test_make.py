"""Every target of `make help`, and every `make` that a document names: its recipe, command by command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands.every import MAKES
from tests.commands.starting import run, simple_commands, start_recipe
from tests.runner.suites import REPOSITORY

TARGETS = re.findall(r"^([a-z-]+):.*##", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
WITHOUT_PYTHON = {"help"}


def test_make_help_lists_the_targets() -> None:
    listed = [line.split()[0] for line in run(["make", "--no-print-directory", "help"]).stdout.splitlines()]
    assert listed == sorted(TARGETS)


@pytest.mark.parametrize("command", sorted({*(f"make {target}" for target in TARGETS), *MAKES}))
def test_a_target_starts_what_it_consists_of(command: str, tmp_path: Path) -> None:
    make, *words = command.split()
    # Everything is made again here, so that the environments' recipes are seen too.
    done = run([make, "--no-print-directory", "--dry-run", "--always-make", *words])
    assert done.returncode == 0, done.stdout
    assert bool(start_recipe(done.stdout, folder=tmp_path)) is (words[0] not in WITHOUT_PYTHON)


def test_recipes_are_read_command_by_command() -> None:
    recipe = "a 'b c' > out && d \\\n  e || { f; }\ng | h 2>/dev/null\n"
    assert list(simple_commands(recipe)) == [["a", "b c"], ["d", "e"], ["{", "f"], ["}"], ["g"], ["h", "2"]]
