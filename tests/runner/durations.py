"""`python3 -m tests.runner.durations`: rewrite tests/durations.tsv from the last run; and what grew against it.

The table says how long each part and each test of a second or more took on one machine. It is compared, never enforced.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.runner import results
from tests.runner.results import Ran
from tests.runner.suites import REPOSITORY, SUITES

TABLE = REPOSITORY / "tests/durations.tsv"
SHORT_SECONDS = 1.0
"""Tests that take less are not in the table."""
GROWTH = 1.2
LEAST_SECONDS = 5.0
"""What grew by less is not told: on a busy machine every short test does at times."""

Durations = Mapping[tuple[str, str], float]
"""Seconds by suite or make target and test; the test is empty for all of it."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Something that takes much longer than the table says."""

    part: str
    test: str
    before: float | None
    """None for a test that is new, or was too short to be kept."""
    now: float


def measured(ran: Ran) -> dict[tuple[str, str], float]:
    """What the table keeps of a suite or target."""
    tests = {(ran.name, test.name): test.seconds for test in ran.tests if test.seconds >= SHORT_SECONDS}
    return {(ran.name, ""): ran.seconds} | tests


def grown(known: Durations, ran: Ran) -> list[Growth]:
    """What grew; nothing of a suite that the table does not know, and no total of one that was run in part."""
    if (ran.name, "") not in known:
        return []
    found = [
        Growth(part=part, test=test, before=known.get((part, test)), now=seconds)
        for (part, test), seconds in measured(ran).items()
        if test or ran.whole
    ]
    return [growth for growth in found if _is_much(growth.before or SHORT_SECONDS, growth.now)]


def _is_much(before: float, now: float) -> bool:
    return now > before * GROWTH and now - before > LEAST_SECONDS


def renewed(known: Durations, runs: Iterable[Ran]) -> Durations:
    """The table with what passed as a whole in place of what was known of it."""
    passed = [ran for ran in runs if ran.whole and not ran.code]
    names = {ran.name for ran in passed}
    kept = {key: seconds for key, seconds in known.items() if key[0] not in names}
    return kept | {key: seconds for ran in passed for key, seconds in measured(ran).items()}


def parse(text: str) -> dict[tuple[str, str], float]:
    """The table from its file."""
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {(part, test): float(seconds) for part, test, seconds in rows}


def render(durations: Durations) -> str:
    """The table as its file has it."""
    rows = [f"{part}\t{test}\t{seconds:.1f}" for (part, test), seconds in sorted(durations.items())]
    return "\n".join(["# part, test, seconds; written by `make test-durations`", *rows, ""])


def read(table: Path = TABLE) -> Durations:
    """What is committed; nothing before the first time."""
    return parse(table.read_text()) if table.exists() else {}


def main() -> None:
    """Rewrite."""
    argparse.ArgumentParser(prog="python3 -m tests.runner.durations", description=__doc__).parse_args()
    names = [*(suite.name for suite in SUITES), "check"]
    runs = [ran for name in names if (ran := results.read(name))]
    TABLE.write_text(render(renewed(read(), runs)))
    for ran in runs:
        kept = ran.code or not ran.whole
        print(f"{ran.name}: {'as it was, for it failed or was run in part' if kept else f'{ran.seconds:.1f} s'}")
    print(f"Written to {TABLE.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
