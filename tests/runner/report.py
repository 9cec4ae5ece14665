"""The words at the end of a test run. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.runner.durations import GROWTH, Growth
from tests.runner.results import Case, Outcome, Ran
from tests.runner.suites import Suite

SLOWEST = 20
MOST_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Part:
    """A make target that was run, and what its processes of pytest told."""

    ran: Ran
    suites: tuple[tuple[Suite, Ran], ...]

    @property
    def tests(self) -> list[Case]:
        """Those of all its suites."""
        return [test for _, ran in self.suites for test in ran.tests]

    @property
    def failures(self) -> int:
        """Tests that failed; a part that failed without telling of any counts as one."""
        return sum(len(ran.failed) for _, ran in self.suites) or int(bool(self.ran.code))


def report(parts: Sequence[Part], *, seconds: float, skipped: Sequence[str], grown: Sequence[Growth]) -> str:
    """Everything, with the line of counts at the end. `skipped` are the parts that a failure kept from being run."""
    blocks = [table(parts, seconds=seconds), slowest(parts), growth(grown)]
    blocks += [failure(part) for part in parts if part.failures]
    if skipped:
        blocks.append(f"Not run: {', '.join(skipped)}")
    return "\n\n".join([*filter(None, blocks), summary(parts)])


def table(parts: Sequence[Part], *, seconds: float) -> str:
    """One line per part, and one per process of pytest where a part has several."""
    rows: list[tuple[str, ...]] = [("part", "seconds", "passed", "failed", "skipped", "cores busy")]
    for part in parts:
        rows.append(_row(part.ran.name, part.ran, part.tests, failures=part.failures))
        if len(part.suites) > 1:
            rows += [_row(f"  {suite.name}", ran, ran.tests, failures=len(ran.failed)) for suite, ran in part.suites]
    rows.append(("in all", f"{seconds:.1f}", "", "", "", ""))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = (
        name.ljust(first) + "".join(f"  {cell.rjust(width)}" for cell, width in zip(cells, others, strict=True))
        for name, *cells in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, ran: Ran, tests: Sequence[Case], *, failures: int) -> tuple[str, ...]:
    passed, skipped = (sum(test.outcome is outcome for test in tests) for outcome in (Outcome.PASSED, Outcome.SKIPPED))
    counts = (str(passed), str(failures), str(skipped)) if tests else ("", str(failures) if failures else "", "")
    return (name, f"{ran.seconds:.1f}", *counts, "" if ran.cores is None else f"{ran.cores:.1f}")


def slowest(parts: Iterable[Part]) -> str:
    """The tests that took longest, over all parts."""
    tests = sorted((test for part in parts for test in part.tests), key=lambda test: -test.seconds)[:SLOWEST]
    lines = [f"{test.seconds:8.1f}  {test.name}" for test in tests]
    return "\n".join([f"The slowest {len(lines)} tests, in seconds:", *lines]) if lines else ""


def growth(grown: Sequence[Growth]) -> str:
    """What takes longer than the committed table says."""
    lines = [
        f"{each.before or 0:8.1f} -> {each.now:8.1f}  {each.test or f'all of {each.part}'}"
        + ("" if each.before else " (new, or was shorter than a second)")
        for each in sorted(grown, key=lambda each: (each.before or 0) - each.now)
    ]
    title = (
        f"Grew by more than {GROWTH - 1:.0%} against tests/durations.tsv, in seconds (`make test-durations` renews it):"
    )
    return "\n".join([title, *lines]) if lines else ""


def failure(part: Part) -> str:
    """Which part failed, why, and what to run next."""
    lines = [f"make {part.ran.name} failed (exit code {part.ran.code})"]
    for suite, ran in part.suites:
        names = [test.name for test in ran.failed]
        lines += [f"  {name}" for name in names[:MOST_NAMED]]
        if len(names) > MOST_NAMED:
            lines.append(f"  and {len(names) - MOST_NAMED} more")
        if names:
            lines.append(f"  Again: {shlex.join(suite.command(tuple(names[:MOST_NAMED])))}")
        elif ran.code:
            lines.append(f"  {suite.name} ended with exit code {ran.code}, and no test is known to have failed")
            lines.append(f"  Again: {shlex.join(suite.command())}")
    if not any(ran.code for _, ran in part.suites):
        lines.append("  No test failed; what it printed last says why.")
    return "\n".join([*lines, f"  All of it again: make {part.ran.name}"])


def summary(parts: Sequence[Part]) -> str:
    """The counts of everything that was run, for people and for machines."""
    passed = sum(ran.count(Outcome.PASSED) for part in parts for _, ran in part.suites)
    return f"{passed} passed, {sum(part.failures for part in parts)} failed"
