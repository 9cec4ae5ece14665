"""What the parts of a test run left in build/tests: pytest's JUnit files, and what each process took.

The only module here that knows these files' forms. They are of the last run of each suite, however it was started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

from tests.runner.suites import REPOSITORY

VARIABLE = "LORA_OPERATOR_TEST_RESULTS"
FOLDER = Path(os.environ.get(VARIABLE) or REPOSITORY / "build/tests")


class Outcome(StrEnum):
    """How a test ended; what is worse comes later."""

    SKIPPED = "skipped"
    PASSED = "passed"
    FAILED = "failed"


_WORST = list(Outcome)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test."""

    name: str
    """What pytest takes to run it again."""
    seconds: float
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One suite or one make target that was run."""

    name: str
    code: int
    seconds: float
    cores: float | None
    whole: bool = True
    """Not only what a change can reach."""
    tests: tuple[Case, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """How many tests ended so."""
        return sum(test.outcome is outcome for test in self.tests)

    @property
    def failed(self) -> list[Case]:
        """Tests, errors of their fixtures included."""
        return [test for test in self.tests if test.outcome is Outcome.FAILED]


def parse_junit(text: str) -> tuple[Case, ...]:
    """The tests of a JUnit file of pytest."""
    found: dict[str, Case] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        test = Case(name=_name(case), seconds=float(case.get("time", 0)), outcome=_outcome(case))
        # A test whose fixture fails after it did is there twice.
        if known := found.get(test.name):
            worst = max(known.outcome, test.outcome, key=_WORST.index)
            test = Case(name=test.name, seconds=known.seconds + test.seconds, outcome=worst)
        found[test.name] = test
    return tuple(found.values())


def _name(case: ElementTree.Element) -> str:
    """`classname` is the file with dots for slashes, then the classes. It is empty for a file that cannot be read."""
    classname, name = case.get("classname", ""), case.get("name", "")
    words = (classname or name).split(".")
    ends = next((index for index, word in enumerate(words, start=1) if word.startswith("test_")), len(words))
    return "::".join(["/".join(words[:ends]) + ".py", *words[ends:], *([name] if classname else [])])


def _outcome(case: ElementTree.Element) -> Outcome:
    inside = {child.tag for child in case}
    if inside & {"failure", "error"}:
        return Outcome.FAILED
    return Outcome.SKIPPED if "skipped" in inside else Outcome.PASSED


def junit_file(name: str, *, folder: Path = FOLDER) -> Path:
    """Where pytest tells of a suite."""
    return folder / f"{name}.xml"


def forget(names: Iterable[str], *, folder: Path = FOLDER) -> None:
    """Remove what earlier runs left, which must not be taken for this one's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        junit_file(name, folder=folder).unlink(missing_ok=True)
        _ran_file(name, folder=folder).unlink(missing_ok=True)


def write(ran: Ran, *, folder: Path = FOLDER) -> None:
    """Keep what a suite or target took; its tests are in the JUnit file."""
    values = {name: value for name, value in asdict(ran).items() if name != "tests"}
    _ran_file(ran.name, folder=folder).write_text(json.dumps(values) + "\n")


def read(name: str, *, folder: Path = FOLDER) -> Ran | None:
    """What was last run by this name. Where pytest was killed there are no tests."""
    try:
        values = json.loads(_ran_file(name, folder=folder).read_text())
    except OSError:
        return None
    try:
        tests = parse_junit(junit_file(name, folder=folder).read_text())
    except (OSError, ElementTree.ParseError):
        tests = ()
    return Ran(**values, tests=tests)


def _ran_file(name: str, *, folder: Path) -> Path:
    return folder / f"{name}.json"
