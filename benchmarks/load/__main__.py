"""`make bench-operator`: the operator under load, beside its rival, on the test cluster of this machine (root).

    python -m benchmarks.load [burst|steady|finished|scale ...]

Prints a table and writes benchmarks/results/operator.json; parts that are not named stay as they are in that file. Each
contestant has one burst. Neither the cluster nor the machine should have other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from lora_operator.api.reasons import Reason
from rich.console import Console

from benchmarks.figures import Figure, at_least, at_most, table_of
from tests.cluster import lifecycle
from tests.cluster.api import Api, connect
from tests.cluster.settings import Paths
from tests.demo.kubectl import Kubectl

from . import ours, rival
from .burst import burst, prepare_namespaces
from .finished import ACTIVE, FINISHED, Outputs, create_finished
from .restart import restart
from .steady import Steady, fake_node, steady
from .usage import usage

RESULTS = Path(__file__).parents[1] / "results/operator.json"
OBJECTS = 1000
SCALES = (100, 1000, 10_000)
Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every part needs."""

    kubectl: Kubectl
    paths: Paths
    api: Api
    session: aiohttp.ClientSession
    report: Callable[[str], None]
    """Takes a line of progress."""


@asynccontextmanager
async def fresh_cluster(console: Console) -> AsyncIterator[Bench]:
    """A cluster without anything from before: to delete thousands of objects would take longer than to begin anew."""

    def report(line: str) -> None:
        console.print(f"  {line}", style="dim", markup=False, highlight=False)

    paths = Paths.from_environment()
    await asyncio.to_thread(lifecycle.down, paths=paths, report=report)
    await asyncio.to_thread(lifecycle.up, paths=paths, report=report)
    kubectl = Kubectl(program=paths.state / "bin/kubectl", kubeconfig=paths.kubeconfig)
    prepare_namespaces(kubectl)
    try:
        async with connect(paths) as api, aiohttp.ClientSession() as session:
            yield Bench(kubectl=kubectl, paths=paths, api=api, session=session, report=report)
    finally:
        # Thousands of runs would weigh on whatever uses the cluster next.
        await asyncio.to_thread(lifecycle.down, paths=paths, report=report)


async def bursts(console: Console) -> Body:
    """The rival, then the operator."""
    async with fresh_cluster(console) as bench:
        rival.install(bench.kubectl, paths=bench.paths, report=bench.report)
        theirs = await burst(bench.api, rival.job, objects=OBJECTS, pids=rival.pids(bench.kubectl))
        bench.report(f"{rival.NAME}: {theirs.per_second:.1f}/s")
    async with fresh_cluster(console) as bench:
        ours.install(bench.kubectl, paths=bench.paths, report=bench.report)
        ours.start(bench.kubectl)
        mine = await burst(bench.api, ours.run, objects=OBJECTS, pids=[ours.pid(bench.kubectl)])
        bench.report(f"lora-operator: {mine.per_second:.1f}/s")
    return {
        "operator": asdict(mine),
        "rival": asdict(theirs),
        "perSecond": mine.per_second,
        "rivalPerSecond": theirs.per_second,
        "ratio": mine.per_second / theirs.per_second,
        "peakMib": mine.peak_mib,
    }


async def steady_state(console: Console) -> Body:
    """A thousand runs that train."""
    async with fresh_cluster(console) as bench:
        ours.install(bench.kubectl, paths=bench.paths, report=bench.report)
        ours.start(bench.kubectl)
        return asdict(await _steady(bench, runs=OBJECTS))


async def beside_finished(console: Console) -> Body:
    """A few runs that train beside many that have finished, by the outputs of those."""
    found: Body = {}
    for outputs in Outputs:
        async with fresh_cluster(console) as bench:
            ours.install(bench.kubectl, paths=bench.paths, report=bench.report)
            await create_finished(bench.api, outputs)
            ours.start(bench.kubectl)
            result = await _steady(bench, runs=ACTIVE)
            bench.report(f"{ACTIVE} runs beside {FINISHED} finished ones, outputs {outputs}: {result.cores:.3f} cores")
            found[outputs] = asdict(result)
    return found


async def _steady(bench: Bench, *, runs: int) -> Steady:
    with (
        tempfile.TemporaryDirectory(prefix="lora-operator-load-") as logs,
        fake_node(bench.kubectl, paths=bench.paths, report=bench.report, logs=Path(logs)),
    ):
        return await steady(bench.api, bench.kubectl, runs=runs, session=bench.session)


async def scales(console: Console) -> Body:
    """What one run costs the operator beside how many others, until status tells that it is preparing; then a restart
    beside all of them. No pods: the controller manager is stopped."""
    costs: list[Body] = []
    for objects in SCALES:
        async with fresh_cluster(console) as bench:
            ours.install(bench.kubectl, paths=bench.paths, report=bench.report)
            ours.start(bench.kubectl)
            lifecycle.stop("kube-controller-manager", paths=bench.paths)
            costs.append(await _cost(bench, objects))
            if objects == SCALES[-1]:
                again = await restart(bench.kubectl, runs=objects, session=bench.session)
                return {"costs": costs, "restart": asdict(again)}
    raise AssertionError("there is no last scale")


async def _cost(bench: Bench, objects: int) -> Body:
    """A fresh operator brings so many runs to where they wait for their pods."""
    pid, address = ours.pid(bench.kubectl), ours.address(bench.kubectl)
    idle, before = usage(pid), await ours.metrics(bench.session, address)
    found = await burst(bench.api, ours.run, objects=objects, pids=[pid])
    after = await ours.until_told(bench.session, address, runs=objects, reason=Reason.PREPARING)
    done = usage(pid)
    requests = after.requests - before.requests
    cost = {
        "runs": objects,
        "cpuMsPerRun": 1000 * (done.cpu_seconds - idle.cpu_seconds) / objects,
        "requestsPerRun": sum(requests.values()) / objects,
        "requests": {f"{verb} {resource}": count / objects for (verb, resource), count in sorted(requests.items())},
        "memoryMib": done.memory_mib,
        "perSecond": found.per_second,
    }
    bench.report(f"{objects} runs: {cost['cpuMsPerRun']:.1f} ms and {cost['requestsPerRun']:.1f} requests each")
    return cost


# --- what is asked of it ------------------------------------------------------------------------------------------


def figures(result: Body) -> list[Figure]:
    """The figures of the parts that were run."""
    found: list[Figure] = []
    if many := result.get("burst"):
        found += [
            at_least(f"first Jobs of {OBJECTS} runs", many["perSecond"], "/s", 100),
            at_least(f"the same, times {rival.NAME} ({many['rivalPerSecond']:.1f}/s)", many["ratio"], "", 2.5),
            at_most("operator memory, peak", many["peakMib"], "MiB", 200),
        ]
    if calm := result.get("steady"):
        found.append(at_most(f"{calm['runs']} runs that train", calm["cores"], "cores", 0.3))
    if few := result.get("finished"):
        beside = f"{ACTIVE} active runs beside {FINISHED} finished ones"
        shared = f"{FINISHED // ACTIVE} of them at the output of each"
        found += [
            at_most(f"{beside}, one output each", few[Outputs.OWN]["cores"], "cores", 0.05),
            at_most(f"{beside}, {shared}", few[Outputs.SHARED]["cores"], "cores", 0.05),
        ]
    if scale := result.get("scale"):
        first, *_, last = scale["costs"]
        again = scale["restart"]
        found += [
            at_most(f"restart beside {again['runs']} runs until ready", again["ready_seconds"], "s", 20),
            at_most("memory after it, peak", again["peak_mib"], "MiB", 300),
            at_most("writes after it", again["writes"], "", 0),
            at_most(
                f"CPU per run at {last['runs']}, times that at {first['runs']}",
                last["cpuMsPerRun"] / first["cpuMsPerRun"],
                "",
                1.25,
            ),
        ]
    return found


PARTS = {"burst": bursts, "steady": steady_state, "finished": beside_finished, "scale": scales}


def _part(name: str) -> str:
    """Not by `choices`: before Python 3.12 argparse looks the empty list of no arguments up among them."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(PARTS)}")
    return name


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parts = parser.parse_args().parts or list(PARTS)
    console = Console(width=120)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured = {name: asyncio.run(PARTS[name](console)) for name in parts}
    result = known | measured
    console.print(table_of(figures(result)))
    for cost in result.get("scale", {}).get("costs", ()):
        console.print(
            f"{cost['runs']:>6} runs: {cost['cpuMsPerRun']:.1f} ms of CPU, {cost['requestsPerRun']:.1f} requests each"
        )
    result |= {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "figures": [asdict(figure) for figure in figures(result)],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"Written to {RESULTS}")


if __name__ == "__main__":
    main()
