"""`python -m tests.faults`: kill an operator after every request of every script, then disturb worlds at random.

Prints the seed, what was done and what came of it; on a violation the history of what violated it, and the command
that shows it again. The same seed does the same, so hashes are fixed: sets of strings have an order of their own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count
from typing import TypeVar

from tests.faults.episodes import (
    Tally,
    deadly_episode,
    evicted_episode,
    gap_episode,
    random_episode,
    refused_episode,
    requests_of,
    sidecar_episode,
)
from tests.faults.scripts import SCRIPTS, Script
from tests.faults.world import Violation

BY_NAME = {script.name: script for script in SCRIPTS}
QUICK = ("plain", "hung", "two-nodes-shrunk")
"""Scripts whose every request is deadly in a quick run."""
REFUSED = "plain"
"""The script of which each request is refused once."""
RETRIED = "flaky"
"""The script whose pods get a sidecar: some fail, and the last one succeeds."""
QUICK_WORLD = (
    *("plain", "bad-data", "shrunk", "flaky", "bug-once", "paused", "deleted", "again", "two-nodes-killed"),
    *("rival", "rival-paused", "rival-held"),
)
"""Scripts of a random world in a quick run."""
T = TypeVar("T")
MODULE = "tests.faults"


def main() -> int:
    """0, or 1 after a violation."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", MODULE, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    total = Tally()
    try:
        if options.only:
            total.add(_again(options.only, _scripts(options)))
        else:
            with ProcessPoolExecutor() as pool:
                _all(pool, options, total)
    except Violation as violation:
        print(f"\nVIOLATION {violation}")
        episode = str(violation).removeprefix("seed ").partition(":")[0]
        quick = " --quick" if options.quick else ""
        print(f"\nto see it again: python -m {MODULE} --only {episode}{quick}")
        return 1
    _report(total, time.monotonic() - began)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--seed", default="1", help="of the random worlds")
    parser.add_argument("--faults", type=int, default=1000, help="as many random ones at least")
    parser.add_argument("--quick", action="store_true", help="few scripts")
    parser.add_argument("--only", default="", help="one episode, by the name that a violation gave")
    return parser.parse_args()


def _scripts(options: argparse.Namespace) -> tuple[Script, ...]:
    return tuple(BY_NAME[name] for name in QUICK_WORLD) if options.quick else SCRIPTS


def _again(episode: str, scripts: tuple[Script, ...]) -> Tally:
    name, _, request = episode.partition("/")
    if request == "gap":
        return gap_episode(BY_NAME[name])
    if request == "evicted":
        return evicted_episode(BY_NAME[name])
    if request == "sidecar":
        return sidecar_episode(BY_NAME[name])
    if request.startswith("refused-"):
        return refused_episode(BY_NAME[name], int(request.removeprefix("refused-")))
    if name in BY_NAME:
        return deadly_episode(BY_NAME[name], int(request))
    tally, digest = random_episode(episode, scripts)
    print(f"history {digest}")
    return tally


def _all(pool: ProcessPoolExecutor, options: argparse.Namespace, total: Tally) -> None:
    names = QUICK if options.quick else tuple(BY_NAME)
    lengths = dict(zip(names, pool.map(requests_of, [BY_NAME[name] for name in names]), strict=True))
    deadly = [pool.submit(deadly_episode, BY_NAME[name], n) for name in names for n in range(lengths[name])]
    _gather(deadly, total.add)
    print(f"{len(deadly)} deaths, one after each request of {len(names)} scripts", flush=True)
    refused = [pool.submit(refused_episode, BY_NAME[REFUSED], n) for n in range(requests_of(BY_NAME[REFUSED]))]
    others = [pool.submit(episode, BY_NAME[REFUSED]) for episode in (gap_episode, evicted_episode)]
    others.append(pool.submit(sidecar_episode, BY_NAME[RETRIED]))
    _gather([*refused, *others], total.add)
    print(
        f"{len(refused)} refusals, one of each request of a script, a deletion that no watch tells of, "
        "evictions in a row, and sidecars that never end",
        flush=True,
    )
    faults = 0

    def add(result: tuple[Tally, str]) -> None:
        nonlocal faults
        faults += result[0].faults.total()
        total.add(result[0])

    for batch in _batches(options.seed, size=1 if options.quick else 2):
        _gather([pool.submit(random_episode, seed, _scripts(options)) for seed in batch], add)
        if faults >= options.faults:
            print(f"{faults} random faults", flush=True)
            return


def _batches(seed: str, *, size: int) -> Iterator[list[str]]:
    """Names of random worlds, so many at a time: which there are must not depend on the machine."""
    for first in count(step=size):
        yield [f"{seed}-{number}" for number in range(first, first + size)]


def _gather(futures: list[Future[T]], add: Callable[[T], None]) -> None:
    try:
        for future in futures:
            add(future.result())
    finally:
        for future in futures:
            future.cancel()


def _report(total: Tally, seconds: float) -> None:
    for title, counted in (("faults", total.faults), ("runs by ending", total.ends)):
        print(f"\n{title}: {counted.total()}")
        _table(counted)
    print(
        f"\n{total.runs} runs, {total.writes} writes checked, {total.seconds / 3600:.1f} simulated hours "
        f"in {seconds:.0f} s: no violation"
    )


def _table(counted: Counter[str]) -> None:
    for name, times in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])):
        print(f"  {times:6} {name}")


if __name__ == "__main__":
    sys.exit(main())
