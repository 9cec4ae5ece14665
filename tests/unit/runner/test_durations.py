"""What grew against the committed table, and how the table is renewed."""

from __future__ import annotations

import pytest

from tests.runner.durations import TABLE, Growth, grown, parse, render, renewed
from tests.runner.results import Case, Outcome, Ran
from tests.runner.suites import SUITES

KNOWN = {("unit", ""): 40.0, ("unit", "t.py::slow"): 10.0, ("check", ""): 30.0}


def unit(*, seconds: float = 40, whole: bool = True, code: int = 0, tests: dict[str, float] | None = None) -> Ran:
    cases = [Case(name=name, seconds=took, outcome=Outcome.PASSED) for name, took in (tests or {}).items()]
    return Ran(name="unit", code=code, seconds=seconds, cores=None, whole=whole, tests=tuple(cases))


@pytest.mark.parametrize(
    ("ran", "told"),
    [
        (unit(), []),
        (unit(tests={"t.py::slow": 15.0}), []),
        (unit(tests={"t.py::slow": 15.1}), [("t.py::slow", 10.0, 15.1)]),
        (unit(seconds=47), []),
        (unit(seconds=49), [("", 40.0, 49)]),
        (unit(seconds=49, whole=False), []),
        (unit(whole=False, tests={"t.py::slow": 20}), [("t.py::slow", 10.0, 20)]),
        (unit(tests={"t.py::new": 6.0}), []),
        (unit(tests={"t.py::new": 6.1}), [("t.py::new", None, 6.1)]),
        (Ran(name="check", code=0, seconds=60, cores=None), [("", 30.0, 60)]),
        (Ran(name="never-measured", code=0, seconds=60, cores=None), []),
    ],
)
def test_what_grew_is_told(ran: Ran, told: list[tuple[str, float | None, float]]) -> None:
    expected = [Growth(part=ran.name, test=test, before=before, now=now) for test, before, now in told]
    assert grown(KNOWN, ran) == expected


def test_what_passed_as_a_whole_is_the_new_measure() -> None:
    new = renewed(KNOWN, [unit(seconds=50, tests={"t.py::other": 2.0, "t.py::short": 0.9})])
    assert new == {("unit", ""): 50, ("unit", "t.py::other"): 2.0, ("check", ""): 30.0}


@pytest.mark.parametrize("ran", [unit(seconds=50, code=1), unit(seconds=50, whole=False)])
def test_what_failed_or_was_run_in_part_is_no_measure(ran: Ran) -> None:
    assert renewed(KNOWN, [ran]) == KNOWN


def test_the_file_has_a_line_for_each() -> None:
    text = render(KNOWN)
    assert text.splitlines()[1:] == ["check\t\t30.0", "unit\t\t40.0", "unit\tt.py::slow\t10.0"]
    assert parse(text) == KNOWN


def test_the_committed_table_can_be_read() -> None:
    parts = {part for part, _ in parse(TABLE.read_text())}
    assert parts <= {*(suite.name for suite in SUITES), "check"}
