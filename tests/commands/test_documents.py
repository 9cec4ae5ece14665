"""Every command that a document names is started by a test; this one says which, and starts those of Python.

A command that is new in a document fails here until a test starts it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands.every import DOCUMENTS, EVERY, MAKES, of
from tests.commands.starting import python_of, run, start_module
from tests.commands.test_benchmarks import FEWEST
from tests.commands.test_programs import DOCKER, OPENSSL
from tests.documents import FOLLOWED, Mention, commands
from tests.kubectl.documented import DOCUMENTED
from tests.runner.suites import PYTHON, REPOSITORY

KUBECTL = {each.command for each in DOCUMENTED}
PYTHONS = of("python", "python3")
PYTESTS = [mention.command for mention in of("pytest")]


def test_a_test_starts_every_command() -> None:
    started = {*MAKES, *OPENSSL, *DOCKER, *KUBECTL, *PYTESTS, *(mention.command for mention in PYTHONS)}
    assert {mention.command for mention in EVERY} - started == set()


def test_what_is_started_is_still_named() -> None:
    blocks = [block for document in DOCUMENTS for block in commands(document.read_text()).values()]
    named = {mention.command for mention in EVERY} | {line for block in blocks for line in block.splitlines()}
    assert {*OPENSSL, *DOCKER, *KUBECTL} - named == set()


def test_a_test_runs_every_block() -> None:
    names = {str(document.relative_to(REPOSITORY)): commands(document.read_text()) for document in DOCUMENTS}
    lines = [
        line for name in names.keys() - set(FOLLOWED) for block in names[name].values() for line in block.splitlines()
    ]
    assert set(lines) - KUBECTL == set()
    follower = (REPOSITORY / "tests/install/test_documents.py").read_text()
    assert "for page in FOLLOWED" in follower


@pytest.mark.parametrize("mention", PYTHONS, ids=lambda mention: mention.command)
def test_a_module_comes_to_work(mention: Mention, tmp_path: Path) -> None:
    _, flag, module, *arguments = shlex.split(re.sub(r"<[^>]*>", "placeholder", mention.command))
    assert flag == "-m"
    if mention.complete or module not in FEWEST:
        start_module(python_of(module), module, arguments, folder=tmp_path)
    else:
        # A sentence names a benchmark, with the arguments that matter there: test_benchmarks.py has the others.
        assert [few for few in FEWEST[module] if list(few[: len(arguments)]) == arguments]


@pytest.mark.parametrize("command", PYTESTS)
def test_pytest_knows_the_option(command: str) -> None:
    _, *options = shlex.split(command)
    done = run([PYTHON, "-m", "pytest", "--collect-only", "-q", *options, "tests/unit/docs/test_reference.py"])
    assert done.returncode == 0, done.stdout
