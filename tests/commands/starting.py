"""Starts a command in its smallest form: far enough to see that it is there, imports what it needs and takes what it is
given, and no further. What a command means for the machine (clusters, hours, gigabytes) is never begun.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.commands.arguments import TAKEN
from tests.runner.suites import PYTHON, REPOSITORY, TRAINER_PYTHON

SECONDS = 240
"""An import of torch and Unsloth takes 20 s, and several times that on a busy machine."""
OPERATORS_PYTHON = ("benchmarks.demo", "benchmarks.load", "lora_operator", "tests")
"""Modules, with what is in them, that are started by the environment of the operator and the tools."""
FILE_WRITERS = ("lora_operator.generate.admission", "lora_operator.generate.crds", "tests.released_contract")
"""These take a folder, and take no time: they are run."""
OURS = ("benchmarks", "lora_operator", "lora_trainer", "tests")
"""Packages whose modules are started with their arguments; others are asked for their help."""
USAGE_ONLY = ("tests.demo",)
"""These print how they are used whenever they are not given one of their two words."""


def python_of(module: str) -> str:
    """The environment that has what the module imports."""
    return PYTHON if any(f"{module}.".startswith(f"{name}.") for name in OPERATORS_PYTHON) else TRAINER_PYTHON


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run it in the repository; fails where it takes too long."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "120", "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def start_module(python: str, module: str, arguments: Sequence[str], *, folder: Path) -> None:
    """Start `python -m module`; fails where it does not come to work with these arguments."""
    if module.split(".", maxsplit=1)[0] not in OURS:
        done = help_of(python, ("-m", module))
        assert done.returncode == 0, done.stdout
    elif module in FILE_WRITERS:
        done = run([python, "-m", module, folder / module])
        assert done.returncode == 0, done.stdout
        assert list((folder / module).iterdir())
    elif module in USAGE_ONLY:
        done = run([python, "-m", module, "--help"])
        assert f"python -m {module}" in done.stdout, done.stdout
        assert all(word in done.stdout for word in arguments), f"{arguments}: {done.stdout}"
    else:
        parsed = parse(python, module, tuple(arguments))
        assert parsed.returncode == 0, parsed.stdout
        assert TAKEN in parsed.stdout, parsed.stdout


@cache
def parse(python: str, module: str, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Have the module read its arguments, and end."""
    assert reads_arguments(module), f"{module} reads no arguments: started, it would begin its work"
    return run([python, "-m", "tests.commands.arguments", module, *arguments])


def reads_arguments(module: str) -> bool:
    """Whether argparse sees the arguments of `python -m module`."""
    return "parse_args(" in source_of(module).read_text()


def source_of(module: str) -> Path:
    """The file that `python -m module` runs."""
    folder = REPOSITORY / module.replace(".", "/")
    if module.split(".", maxsplit=1)[0] in ("benchmarks", "tests"):
        return folder / "__main__.py" if folder.is_dir() else folder.with_suffix(".py")
    spec = find_spec(f"{module}.__main__") or find_spec(module)
    assert spec, f"there is no {module}"
    return Path(str(spec.origin))


def start_recipe(recipe: str, *, folder: Path) -> list[str]:
    """Start what a recipe of make consists of, and return the programs that were started."""
    started: list[str] = []
    for program, *arguments in simple_commands(recipe):
        if arguments[:1] == ["-m"]:
            _, module, *given = arguments
            start_module(program, module, given, folder=folder)
            started.append(module)
        elif program.startswith((".venv/", ".venv-trainer/")):
            done = help_of(program, tuple(word for word in arguments if not word.startswith("-"))[:2])
            assert done.returncode == 0, f"{program} {arguments}: {done.stdout}"
            started.append(program)
    return started


@cache
def help_of(program: str, verbs: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What a program says of itself. `verbs` are its first words, of which the last may be a file."""
    return run([program, *verbs, "--help"])


def simple_commands(recipe: str) -> Iterator[list[str]]:
    """The commands of shell lines, without what they are joined by and where they print to."""
    lines = recipe.replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        into = False
        for word in words:
            if word and set(word) <= set("();<>|&"):
                into = set(word) <= set("<>")
                if command and not into:
                    yield command
                    command = []
            elif not into:
                command.append(word)
        if command:
            yield command
