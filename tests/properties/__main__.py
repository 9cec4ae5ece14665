"""`python -m tests.properties`: try what must hold for every row of a dataset on many of them.

Prints the seed, how far each test is, and of a row that breaks a property the smallest one like it, with the command
that finds it again. The same seed makes the same rows.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys

from tests.properties.rows import ROWS
from tests.runner.suites import REPOSITORY

MODULE = "tests.properties"
TESTS = "tests/unit/trainer"
LONGEST = 3 * 3600
"""Seconds for one test."""


def main() -> int:
    """0, or pytest's exit code after a violation."""
    options = _options()
    print(f"seed {options.seed}", flush=True)
    chosen = ["-k", options.only] if options.only else []
    # What the tests tell as they run goes past pytest, which would keep it until they end.
    how = ["-q", "-m", "rows", "--capture", "no", "--timeout", str(LONGEST), "-n", options.processes]
    command = [sys.executable, "-m", "pytest", *how, f"--hypothesis-seed={options.seed}", *chosen, TESTS]
    code = subprocess.run(command, cwd=REPOSITORY, env=os.environ | {ROWS: str(options.rows)}, check=False).returncode
    if code:
        again = ["python", "-m", MODULE, "--seed", options.seed, "--rows", str(options.rows), "--only"]
        print(f"\nto see it again: {shlex.join(again)} NAME, with the name of a test that failed")
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seed", default="1", help="of the rows")
    parser.add_argument("--rows", type=int, default=20_000, help="for each property")
    parser.add_argument("--only", default="", help="the name of a test, or a part of it")
    parser.add_argument("--processes", default="auto", help="that run tests side by side")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
