"""`python -m tests.fuzz`: random LoraFineTunes and classes against a real API server and a real operator (root).

Each object must end refused with a sentence, not accepted or failed with a reason, or running; the operator must
neither end nor be surprised. Prints how many ended how; of an object that ended otherwise, its YAML and the command
that plays it again. The same seed makes the same objects.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import yaml

from tests.cluster import control_plane
from tests.cluster.api import connect
from tests.cluster.commands import ClusterError
from tests.cluster.settings import Paths
from tests.demo.kubectl import Kubectl
from tests.fuzz.judge import Violation
from tests.fuzz.operator_process import Operator, install, operator
from tests.fuzz.play import Player
from tests.fuzz.steps import NAMESPACE, Step, standing_classes, step_of

MODULE = "tests.fuzz"
AT_ONCE = 16
REPORT_EVERY = 500
"""Objects."""
"""Steps that are played side by side."""
Counts = Counter[tuple[str, str, str]]
"""How many ended how: kind, end, reason."""


def main() -> int:
    """0, or 1 after a violation, or 2 where there is no control plane."""
    options = _options()
    try:
        control_plane.isolate(MODULE, sys.argv[1:], report=_report)
        with control_plane.running(report=_report) as paths:
            kubectl = Kubectl(program=paths.state / "bin/kubectl", kubeconfig=paths.kubeconfig)
            install(kubectl)
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            kubectl.apply(namespace, *standing_classes())
            with operator(kubectl, paths=paths) as running:
                return asyncio.run(_play(options, paths, running))
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 2
    except Violation as violation:
        print(f"VIOLATION {violation}")
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--seed", default="1", help="of the objects")
    parser.add_argument("--count", type=int, default=5000, help="objects")
    parser.add_argument("--only", type=int, help="the number of one object, as a violation gave it")
    return parser.parse_args()


def _report(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


async def _play(options: argparse.Namespace, paths: Paths, running: Operator) -> int:
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    numbers = iter([options.only] if options.only else range(1, options.count + 1))
    counts: Counts = Counter()
    with ProcessPoolExecutor(1) as pool:
        async with connect(paths) as api, asyncio.TaskGroup() as tasks:
            player = Player(api=api)
            workers = [
                tasks.create_task(_work(numbers, pool, options.seed, player, running, counts)) for _ in range(AT_ONCE)
            ]
    violations = sum(worker.result() for worker in workers)
    _table(counts)
    print(f"\n{counts.total() + violations} objects in {time.monotonic() - began:.0f} s, {violations} violations")
    return 1 if violations else 0


async def _work(
    numbers: Iterator[int], pool: ProcessPoolExecutor, seed: str, player: Player, running: Operator, counts: Counts
) -> int:
    """Play the next step as long as there is one and an operator; how many violations that came to."""
    violations = 0
    for number in numbers:
        step = await asyncio.get_running_loop().run_in_executor(pool, partial(step_of, number, seed_text=seed))
        try:
            outcome = await player.play(step)
            running.check()
        except Violation as violation:
            violations += 1
            _tell(step, violation, seed)
            print(running.said_of(f"fuzz-{number}"), flush=True)
            if running.ended:
                break
        else:
            counts[step.kind, outcome.end, outcome.reason] += 1
            if counts.total() % REPORT_EVERY == 0:
                _report(f"{counts.total()} objects were judged")
    return violations


def _tell(step: Step, violation: Violation, seed: str) -> None:
    print(f"\nVIOLATION {step.deed} {step.kind}: {violation}\n")
    if step.deed == "edit":
        print(yaml.safe_dump(step.sound, sort_keys=False, allow_unicode=True) + "---")
    print(yaml.safe_dump(step.body, sort_keys=False, allow_unicode=True))
    print(f"to see it again: python -m {MODULE} --seed {seed} --only {step.number}", flush=True)


def _table(counts: Counts) -> None:
    for kind in sorted({kind for kind, _, _ in counts}):
        of_kind = {key: number for key, number in counts.items() if key[0] == kind}
        print(f"\n{kind}: {sum(of_kind.values())}")
        ends = Counter({end: 0 for _, end, _ in of_kind})
        for (_, end, _), number in of_kind.items():
            ends[end] += number
        for end, number in ends.most_common():
            print(f"  {number:6} {end}")
            reasons = Counter({reason: many for (_, of, reason), many in of_kind.items() if of == end and reason})
            for reason, many in reasons.most_common():
                print(f"    {many:6} {reason}")


if __name__ == "__main__":
    sys.exit(main())
