"""`python3 -m tests.runner LANE... [then LANE...]`: make targets in lanes, and a report of all of them at the end.

A lane is a comma-separated row of targets. What stands after `then` begins when everything before it has passed:

    python3 -m tests.runner check,test-unit then test-trainer test-cluster

Standard library only: it runs before any environment exists.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from tests.runner import durations, lanes, results, selection
from tests.runner.cores import Stopwatch
from tests.runner.report import Part, report
from tests.runner.results import Ran
from tests.runner.suites import SUITES, make, suites_of

LOGS = results.FOLDER / "logs"


def main(argv: list[str]) -> int:
    """Exit code: 0 where everything passed."""
    options = _options(argv)
    phases = _phases(options.lanes)
    if options.selection:
        os.environ[selection.VARIABLE] = str(options.selection.resolve())
        phases = _selected(phases)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = [part for phase in phases for lane in phase for part in lane]
    results.forget([*(suite.name for suite in SUITES), *parts])
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    watch, ended = Stopwatch(), list[Ran]()
    for phase in phases:
        ended += lanes.run(phase, command=make, logs=LOGS)
        if any(ran.code for ran in ended):
            break
    for ran in ended:
        results.write(ran)
    told = [_part(ran) for ran in ended]
    known, begun = durations.read(), {ran.name for ran in ended}
    every = [*ended, *(ran for part in told for _, ran in part.suites)]
    print()
    print(
        report(
            told,
            seconds=watch.took().seconds,
            skipped=[part for part in parts if part not in begun],
            grown=[growth for ran in every for growth in durations.grown(known, ran)],
        )
    )
    return int(any(part.failures for part in told))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lanes", nargs="+", metavar="LANE", help="make targets with commas between them, or `then`")
    parser.add_argument("--selection", type=Path, help="file that says what is run of them (tests/changed.py)")
    return parser.parse_args(argv)


def _phases(words: list[str]) -> list[list[lanes.Lane]]:
    """The lanes between one `then` and the next."""
    phases: list[list[lanes.Lane]] = [[]]
    for word in words:
        if word == "then":
            phases.append([])
        else:
            phases[-1].append(word.split(","))
    return phases


def _selected(phases: list[list[lanes.Lane]]) -> list[list[lanes.Lane]]:
    """The parts that the change can reach; says which it cannot."""
    chosen = selection.read()
    wanted = set(chosen.targets) if chosen else set[str]()
    for part in (part for phase in phases for lane in phase for part in lane if part not in wanted):
        print(f"{part} is not run: the change cannot reach it")
    kept = [[[part for part in lane if part in wanted] for lane in phase] for phase in phases]
    return [[lane for lane in phase if lane] for phase in kept]


def _part(ran: Ran) -> Part:
    told = [(suite, results.read(suite.name)) for suite in suites_of(ran.name)]
    return Part(ran=ran, suites=tuple((suite, found) for suite, found in told if found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
