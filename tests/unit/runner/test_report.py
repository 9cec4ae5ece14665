"""The words at the end of a test run."""

from __future__ import annotations

import shlex

from tests.runner.durations import Growth
from tests.runner.report import SLOWEST, Part, report
from tests.runner.results import Case, Outcome, Ran
from tests.runner.suites import SUITES, Suite

BY_NAME = {suite.name: suite for suite in SUITES}


def suite(
    name: str, *, passed: int = 0, failed: tuple[str, ...] = (), seconds: float = 10, code: int | None = None
) -> tuple[Suite, Ran]:
    """One with so many tests that passed, and those that failed."""
    cases = [Case(name=f"t.py::passed_{n}", seconds=n / 10, outcome=Outcome.PASSED) for n in range(passed)]
    cases += [Case(name=test, seconds=1, outcome=Outcome.FAILED) for test in failed]
    code = int(bool(failed)) if code is None else code
    return BY_NAME[name], Ran(name=name, code=code, seconds=seconds, cores=1.25, tests=tuple(cases))


def part(name: str, *suites: tuple[Suite, Ran], code: int = 0) -> Part:
    code = code or next((ran.code for _, ran in suites if ran.code), 0)
    return Part(ran=Ran(name=name, code=code, seconds=20, cores=None), suites=suites)


def told(*parts: Part, skipped: tuple[str, ...] = (), grown: tuple[Growth, ...] = ()) -> str:
    return report(parts, seconds=99.5, skipped=skipped, grown=grown)


def cells(line: str) -> list[str]:
    return line.split()


def test_the_last_line_has_the_counts_of_all_parts() -> None:
    parts = [part("test-unit", suite("unit", passed=3)), part("test-cluster", suite("cluster", passed=4))]
    assert told(*parts).splitlines()[-1] == "7 passed, 0 failed"


def test_each_part_has_a_line() -> None:
    lines = told(part("check"), part("test-unit", suite("unit", passed=3))).splitlines()
    assert cells(lines[1]) == ["check", "20.0"]
    assert cells(lines[2]) == ["test-unit", "20.0", "3", "0", "0"]
    assert cells(lines[3]) == ["in", "all", "99.5"]


def test_each_process_of_pytest_has_a_line() -> None:
    lines = told(part("test-cluster", suite("cluster", passed=3), suite("fuzz", passed=1))).splitlines()
    assert [cells(line) for line in lines[1:4]] == [
        ["test-cluster", "20.0", "4", "0", "0"],
        ["cluster", "10.0", "3", "0", "0", "1.2"],
        ["fuzz", "10.0", "1", "0", "0", "1.2"],
    ]


def test_the_slowest_tests_are_named_the_slowest_first() -> None:
    lines = told(part("test-unit", suite("unit", passed=30)), part("test-fuzz", suite("fuzz", passed=2))).splitlines()
    begin = lines.index(f"The slowest {SLOWEST} tests, in seconds:") + 1
    named = [cells(line) for line in lines[begin : begin + SLOWEST + 1]]
    assert named[0] == ["2.9", "t.py::passed_29"]
    assert named[-2:] == [["1.0", "t.py::passed_10"], []]


def test_what_grew_is_told_the_most_grown_first() -> None:
    grown = (
        Growth(part="unit", test="", before=40.0, now=50.0),
        Growth(part="unit", test="t.py::slow", before=10.0, now=30.0),
        Growth(part="unit", test="t.py::new", before=None, now=6.0),
    )
    lines = told(part("test-unit"), grown=grown).splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("Grew by more than 20%")) + 1
    assert [" ".join(cells(line)) for line in lines[begin : begin + 3]] == [
        "10.0 -> 30.0 t.py::slow",
        "40.0 -> 50.0 all of unit",
        "0.0 -> 6.0 t.py::new (new, or was shorter than a second)",
    ]


def test_growth_is_no_failure() -> None:
    grown = (Growth(part="unit", test="", before=40.0, now=90.0),)
    assert told(part("test-unit", suite("unit", passed=1)), grown=grown).endswith("\n1 passed, 0 failed")


def test_a_failure_says_what_failed_and_what_to_run_next() -> None:
    failing = "tests/component/test_some.py::test_of[a word's]"
    text = told(part("test-component", suite("component", passed=2, failed=(failing,))), skipped=("test-trainer",))
    lines = [line.strip() for line in text.splitlines()]
    begin = lines.index("make test-component failed (exit code 1)")
    assert lines[begin + 1] == failing
    assert lines[begin + 2].startswith("Again: .venv/bin/python -m pytest -q ")
    assert shlex.split(lines[begin + 2])[-1] == failing
    assert lines[begin + 3] == "All of it again: make test-component"
    assert "Not run: test-trainer" in lines
    assert lines[-1] == "2 passed, 1 failed"


def test_a_failed_part_that_has_no_tests_counts_as_a_failure() -> None:
    lines = told(part("check", code=2), part("test-unit", suite("unit", passed=5))).splitlines()
    assert cells(lines[1]) == ["check", "20.0", "1"]
    assert "make check failed (exit code 2)" in lines
    assert lines[-1] == "5 passed, 1 failed"


def test_a_suite_that_ended_without_a_word_counts_as_a_failure() -> None:
    lines = told(part("test-fuzz", suite("fuzz", code=137))).splitlines()
    assert "  fuzz ended with exit code 137, and no test is known to have failed" in lines
    assert lines[-1] == "0 passed, 1 failed"


def test_of_many_failures_some_are_named() -> None:
    failed = tuple(f"t.py::test_{n}" for n in range(25))
    lines = told(part("test-unit", suite("unit", failed=failed))).splitlines()
    assert "  and 5 more" in lines
    assert lines[-1] == "0 passed, 25 failed"
