"""`python3 -m tests.runner.rounds TARGET --times N`: run a make target again and again, and record what fails.

    python3 -m tests.runner.rounds demo --before demo-down --times 20
    python3 -m tests.runner.rounds test-cluster --times 3 --busy 1

`--busy` keeps so many processors busy with other work meanwhile: what passes by luck on a fast machine fails on a slow
one. Each round is a line of tests/rounds.tsv. Standard library only, as all of this package.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.runner import results
from tests.runner.suites import REPOSITORY, make, suites_of

TABLE = REPOSITORY / "tests/rounds.tsv"
HEADING = "# when, commit, target, processors kept busy by other work, seconds, exit code, tests that failed; " + (
    "written by `python3 -m tests.runner.rounds`\n"
)
SPIN = "while True: pass"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of a target."""

    when: str
    commit: str
    target: str
    busy: int
    seconds: float
    code: int
    failed: tuple[str, ...]
    """Tests."""

    @property
    def line(self) -> str:
        """Its line of the table."""
        columns = (self.when, self.commit, self.target, self.busy, f"{self.seconds:.0f}", self.code)
        return "\t".join([*map(str, columns), " ".join(self.failed)]).rstrip() + "\n"


def main(argv: list[str]) -> int:
    """Exit code: 0 where every round passed."""
    options = _options(argv)
    rounds: list[Round] = []
    with busy(options.busy):
        for number in range(1, options.times + 1):
            for target in options.before:
                subprocess.run(make(target), check=True, cwd=REPOSITORY)
            rounds.append(play(options.target, busy=options.busy))
            append(rounds[-1])
            print(f"=== round {number} of {options.times}: {rounds[-1].line}", end="", flush=True)
    print(told(rounds))
    return int(any(each.code for each in rounds))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.runner.rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="make target")
    parser.add_argument("--times", type=int, required=True, metavar="N", help="rounds")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processors to keep busy (default 0)")
    parser.add_argument(
        "--before", action="append", default=[], metavar="TARGET", help="make target to run before each"
    )
    return parser.parse_args(argv)


def play(target: str, *, busy: int) -> Round:
    """Run the target once."""
    suites = [suite.name for suite in suites_of(target)]
    results.forget(suites)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True, cwd=REPOSITORY).strip()
    when, began = datetime.now(UTC), time.monotonic()
    code = subprocess.run(make(target), check=False, cwd=REPOSITORY).returncode
    ran = filter(None, map(results.read, suites))
    return Round(
        when=f"{when:%Y-%m-%dT%H:%MZ}",
        commit=commit,
        target=target,
        busy=busy,
        seconds=time.monotonic() - began,
        code=code,
        failed=tuple(test.name.replace(" ", "_") for each in ran for test in each.failed),
    )


@contextmanager
def busy(processors: int) -> Iterator[None]:
    """Work that nobody needs, in sessions of its own: Linux divides processors between sessions first."""
    with ExitStack() as stack:
        for _ in range(processors):
            spinning = subprocess.Popen([sys.executable, "-c", SPIN], start_new_session=True)
            stack.callback(spinning.wait)
            stack.callback(spinning.kill)
        yield


def append(played: Round, table: Path = TABLE) -> None:
    """Add a round to the table."""
    text = table.read_text() if table.exists() else HEADING
    table.write_text(text + played.line)


def told(rounds: Sequence[Round]) -> str:
    """How many passed, in which time, and which tests failed how often."""
    seconds = [each.seconds for each in rounds]
    passed = sum(each.code == 0 for each in rounds)
    lines = [
        f"{passed} of {len(rounds)} rounds of {rounds[0].target} passed;"
        f" seconds: {min(seconds):.0f} at least, {statistics.median(seconds):.0f} in the middle,"
        f" {max(seconds):.0f} at most"
    ]
    failures = Counter(test for each in rounds for test in each.failed)
    lines += [f"  failed {times} times: {test}" for test, times in failures.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
