"""What is read from pytest's own JUnit files: names that pytest takes again, endings and seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner import results
from tests.runner.results import Case, Outcome, Ran, parse_junit

MODULE = """
import pytest
from hypothesis.stateful import RuleBasedStateMachine, rule

class Machine(RuleBasedStateMachine):
    @rule()
    def turn(self): pass

test_machine = Machine.TestCase

class TestOfAClass:
    def test_passes(self): pass

@pytest.mark.parametrize("word", ["one/two.three", "four five"])
def test_of_parameters(word): assert word == "four five"

@pytest.fixture
def broken(): raise OSError

@pytest.fixture
def breaks_later():
    yield
    raise OSError

def test_whose_fixture_fails(broken): pass

def test_that_fails_twice(breaks_later): assert False

def test_that_is_skipped(): pytest.skip("why not")

def test_that_may_fail(): pytest.xfail("known")
"""


@pytest.fixture
def told(tmp_path: Path) -> tuple[Case, ...]:
    """Of a run of pytest itself."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/test_some.py").write_text(MODULE)
    (tmp_path / "folder/test_broken.py").write_text("import no_such_module\n")
    options = ["--junitxml", "junit.xml", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "folder"]
    subprocess.run(command, cwd=tmp_path, check=False, stdout=subprocess.DEVNULL)
    return parse_junit((tmp_path / "junit.xml").read_text())


def test_tests_have_the_names_that_pytest_takes(told: tuple[Case, ...]) -> None:
    file = "folder/test_some.py"
    assert {(case.name, str(case.outcome)) for case in told} == {
        ("folder/test_broken.py", "failed"),
        (f"{file}::TestOfAClass::test_passes", "passed"),
        (f"{file}::test_machine::runTest", "passed"),
        (f"{file}::test_of_parameters[one/two.three]", "failed"),
        (f"{file}::test_of_parameters[four five]", "passed"),
        (f"{file}::test_whose_fixture_fails", "failed"),
        (f"{file}::test_that_fails_twice", "failed"),
        (f"{file}::test_that_is_skipped", "skipped"),
        (f"{file}::test_that_may_fail", "skipped"),
    }


def test_the_seconds_of_a_test_hold_its_fixtures() -> None:
    (case,) = parse_junit('<a><testcase classname="test_t" name="test" time="1.5"/></a>')
    assert case == Case(name="test_t.py::test", seconds=1.5, outcome=Outcome.PASSED)


def test_what_was_written_is_read_with_its_tests(tmp_path: Path) -> None:
    ran = Ran(name="unit", code=1, seconds=2.5, cores=None, whole=False)
    results.write(ran, folder=tmp_path)
    assert results.read("unit", folder=tmp_path) == ran
    results.junit_file("unit", folder=tmp_path).write_text('<a><testcase classname="test_t" name="test"/></a>')
    again = results.read("unit", folder=tmp_path)
    assert again
    assert [case.name for case in again.tests] == ["test_t.py::test"]


def test_a_file_that_was_cut_off_has_no_tests(tmp_path: Path) -> None:
    results.write(Ran(name="unit", code=1, seconds=2.5, cores=None), folder=tmp_path)
    results.junit_file("unit", folder=tmp_path).write_text("<a><testcase")
    ran = results.read("unit", folder=tmp_path)
    assert ran
    assert ran.tests == ()


def test_what_is_forgotten_was_not_run(tmp_path: Path) -> None:
    results.write(Ran(name="unit", code=0, seconds=1, cores=None), folder=tmp_path)
    results.junit_file("unit", folder=tmp_path).write_text("<a/>")
    results.forget(["unit", "never-run"], folder=tmp_path)
    assert results.read("unit", folder=tmp_path) is None
    assert list(tmp_path.iterdir()) == []
