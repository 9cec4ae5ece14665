"""The table of pytest's processes against the files and the Makefile."""

from __future__ import annotations

import pytest

from tests.runner.suites import QUICK_TRAINER_FILES, REPOSITORY, SUITES, Suite, suites_of

MAKEFILE = (REPOSITORY / "Makefile").read_text()
WHOLE = [suite for suite in SUITES if suite.name != "trainer-quick"]
"""What `make test` runs."""


def test_every_test_file_is_run_by_one_suite() -> None:
    files = [str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "tests").rglob("test_*.py")]
    runners = {file: [suite.name for suite in WHOLE if suite.has(file)] for file in files}
    assert files
    assert {file: names for file, names in runners.items() if len(names) != 1} == {}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_suite_names_what_is_there(suite: Suite) -> None:
    named = [*suite.paths, *suite.apart]
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    assert f"\n{suite.target}:" in MAKEFILE


def test_make_test_runs_every_suite() -> None:
    (line,) = [line for line in MAKEFILE.splitlines() if "$(RUN_PARTS) check" in line and "test-cluster" in line]
    parts = set(line.replace(",", " ").split())
    assert {suite.target for suite in WHOLE} <= parts


def test_quick_files_are_the_trainers() -> None:
    (trainer,) = suites_of("test-trainer")
    assert [file for file in QUICK_TRAINER_FILES if not trainer.has(file)] == []


def test_a_suite_runs_all_of_it_or_what_is_named() -> None:
    suite = Suite(name="some", target="test-some", paths=("a", "b"), options=("-n", "2"), apart=("a/test_x.py",))
    assert suite.command()[-6:] == ["-n", "2", "--ignore", "a/test_x.py", "a", "b"]
    assert suite.command(("a/test_y.py",))[-3:] == ["-n", "2", "a/test_y.py"]
    assert suite.has("a/deep/test_y.py")
    assert not suite.has("a/test_x.py")
    assert not suite.has("abc/test_y.py")
