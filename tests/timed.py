"""`python3 tests/timed.py TARGET...`: make each target, stop at the first that fails, and print how long each took.

Standard library only: it runs before any environment exists.
"""

from __future__ import annotations

import subprocess
import sys
import time


def main(targets: list[str]) -> int:
    """Exit code of the first target that fails, or 0."""
    took: list[tuple[str, float]] = []
    code = 0
    for target in targets:
        print(f"=== make {target}", flush=True)
        began = time.monotonic()
        code = subprocess.run(["make", "--no-print-directory", target], check=False).returncode
        took.append((target, time.monotonic() - began))
        if code:
            break
    print(f"\n{'part':<20}{'seconds':>10}")
    for target, seconds in (*took, ("in all", sum(seconds for _, seconds in took))):
        print(f"{target:<20}{seconds:>10.1f}")
    if code:
        print(f"\nmake {took[-1][0]} failed; what comes after it was not run.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
