"""`python3 -m tests.runner.suite TARGET`: run the suites of a make target one after another, and record what they took.

Ends at the first that fails. Prints each command, so that it can be repeated and changed by hand.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from tests.runner import results, selection
from tests.runner.cores import Stopwatch
from tests.runner.suites import REPOSITORY, SUITES, Suite, suites_of


def run(suite: Suite, tests: tuple[str, ...] | None) -> int:
    """Exit code of pytest."""
    results.forget([suite.name])
    command = suite.command(tests)
    print(f"+ {shlex.join(command)}", flush=True)
    watch = Stopwatch()
    command += ["--junitxml", str(results.junit_file(suite.name))]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    took = watch.took()
    ran = results.Ran(name=suite.name, code=code, seconds=took.seconds, cores=took.cores, whole=tests is None)
    results.write(ran)
    return code


def main(argv: list[str]) -> int:
    """Exit code of the first suite that fails, or 0."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.runner.suite", description=__doc__)
    parser.add_argument("target", choices=sorted({suite.target for suite in SUITES}))
    target, chosen = parser.parse_args(argv).target, selection.read()
    for suite in suites_of(target):
        tests = chosen.tests(suite.name) if chosen else None
        if tests == ():
            print(f"{suite.name}: nothing that the change can reach")
        elif code := run(suite, tests):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
