"""`python -m tests.demo up|down`: from `kubectl apply` to a proven adapter, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from rich.console import Console

from tests.cluster import lifecycle
from tests.cluster.commands import ClusterError, RequirementError
from tests.cluster.settings import Paths
from tests.demo import failures, live, object_store, summary
from tests.demo.environment import MANIFESTS, TENANT, Environment, ensure_environment
from tests.demo.kubectl import KubectlError
from tests.demo.timings import Timings

RUN = "text-to-sql"
RUN_STEP = "LoraFineTune"
OUTPUT_PREFIX = "adapters/text-to-sql"
LONGEST_RUN_SECONDS = 20 * 60


def up(console: Console, timings: Timings) -> None:
    """Bring everything up, train, sum up."""
    environment = ensure_environment(timings)
    with timings.part(RUN_STEP):
        run = train(environment, console)
    with object_store.bucket(environment.kubectl, environment.account) as store:
        evaluation = object_store.read_json(store, f"{run['status']['artifact']['uri']}/evaluation.json")
    summary.show(run, evaluation, console)
    console.print(timings.table())
    kubeconfig = environment.kubectl.kubeconfig
    console.print(f"Look around: KUBECONFIG={kubeconfig} {environment.kubectl.program} -n {TENANT} describe lft {RUN}")
    console.print("End it all: make demo-down", highlight=False)


def train(environment: Environment, console: Console) -> dict:
    """Apply the sample afresh and watch it until it is complete."""
    kubectl = environment.kubectl
    clear_output(environment)
    kubectl("-n", TENANT, "delete", "lorafinetune", RUN, "--ignore-not-found", "--wait")
    kubectl("apply", "-f", MANIFESTS / "samples/text-to-sql-demo.yaml")
    return live.watch(kubectl, namespace=TENANT, name=RUN, console=console, seconds=LONGEST_RUN_SECONDS)


def clear_output(environment: Environment) -> None:
    """Remove the adapter of an earlier demo: with it there the run would reuse it and end at once."""
    with object_store.bucket(environment.kubectl, environment.account) as store:
        object_store.delete_folder(store, OUTPUT_PREFIX)


def down(console: Console) -> None:
    """Remove cluster, pods, mounts, network. Caches stay, so that the next demo is quick."""
    paths = Paths.from_environment()
    lifecycle.down(paths=paths, report=lambda line: console.print(f"  {line}", style="dim", markup=False))
    console.print(
        f"Nothing runs any more. Programs and images are cached in {paths.cache}; remove it to free the disk."
    )


def main() -> int:
    """0 done, 1 it went wrong, 2 this machine or user lacks something."""
    console = Console()
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb not in ("up", "down"):
        console.print(__doc__)
        return 2
    timings = Timings(console=console)
    try:
        up(console, timings) if verb == "up" else down(console)
    except (ClusterError, KubectlError, live.RunFailed, TimeoutError, subprocess.CalledProcessError) as problem:
        text = str(problem) if verb == "down" else failures.told(problem, failed=timings.failed, look=_look(timings))
        console.print(text, style="red", markup=False, soft_wrap=True)
        return 2 if isinstance(problem, RequirementError) else 1
    return 0


def _look(timings: Timings) -> str:
    """The command that shows the run, where the run is what failed."""
    if RUN_STEP not in timings.failed:
        return ""
    paths = Paths.from_environment()
    kubeconfig = os.environ.get("KUBECONFIG", str(paths.kubeconfig))
    program = paths.state / "bin/kubectl" if kubeconfig == str(paths.kubeconfig) else "kubectl"
    return f"KUBECONFIG={kubeconfig} {program} -n {TENANT} describe lft {RUN}"


if __name__ == "__main__":
    sys.exit(main())
