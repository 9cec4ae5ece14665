"""Shows what runs: processes, the node's conditions, its capacity. Changes nothing."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from . import health, lifecycle, pki, processes, toolchain
from .commands import ClusterError
from .components import components
from .settings import NODE_NAME, Paths


def show(*, paths: Paths, console: Console) -> None:
    """Print the tables, or a sentence when no cluster is up."""
    if not paths.state.exists():
        console.print("No cluster is up. `python -m tests.cluster up` brings one up.")
        return
    table = Table("component", "pid", "state", "log")
    for part in components(paths=paths, programs=toolchain.programs(paths)):
        record = processes.running(part.name, records=paths.state / "processes")
        fine = health.healthy(part.health, ca_file=paths.pki / pki.CA_FILE)
        state = ("healthy" if fine else "not healthy") if record else "does not run"
        table.add_row(part.name, str(record.pid) if record else "-", state, str(paths.logs / f"{part.name}.log"))
    console.print(table)
    try:
        node = json.loads(lifecycle.kubectl(paths, "get", "node", NODE_NAME, "--output", "json"))
    except ClusterError as error:
        console.print(str(error), markup=False)
        return
    conditions = Table("condition", "status", "reason")
    for condition in node["status"]["conditions"]:
        conditions.add_row(condition["type"], condition["status"], condition["reason"])
    console.print(conditions)
    console.print(f"allocatable: {json.dumps(node['status']['allocatable'])}", markup=False)
