"""Finished runs that stay beside those that train, as the runs of some months do.

They were never run: they have the status that the planner gives a run that ends well. They have no Jobs, as after their
retention.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from tests.builders import a_class
from tests.cluster.api import Api, Body
from tests.unit.operator.simulation import complete

from . import ours
from .burst import namespaces

ACTIVE, FINISHED = 50, 5000


class Outputs(StrEnum):
    """Whose outputs the finished runs have. Runs that train cannot share one, which takes one unfinished run."""

    OWN = "own"
    """Each has one of its own."""
    SHARED = "shared"
    """Each has that of a run that trains."""


def active_runs(count: int) -> Iterator[tuple[str, Body]]:
    """Path and body of each run that is to train."""
    tenants = namespaces()
    return (ours.run(tenants[n % len(tenants)], f"run-{n}") for n in range(count))


def finished_runs(outputs: Outputs, *, count: int = FINISHED, active: int = ACTIVE) -> Iterator[tuple[str, Body]]:
    """Path and body of each finished run, without its status."""
    tenants = namespaces()
    shared = [body["spec"]["output"] for _, body in active_runs(active)]
    for n in range(count):
        path, body = ours.run(tenants[n % len(tenants)], f"finished-{n}")
        output = shared[n % len(shared)] if outputs is Outputs.SHARED else body["spec"]["output"]
        yield path, body | {"spec": body["spec"] | {"output": output}}


async def create_finished(api: Api, outputs: Outputs, *, count: int = FINISHED, active: int = ACTIVE) -> None:
    """Create the finished runs. No operator may run yet: it would start them."""
    runs = list(finished_runs(outputs, count=count, active=active))
    await api.create_all(runs)
    ended = complete(classes=(a_class(ours.CLASS),), className=ours.CLASS).run
    status = {"status": ended.status.wire()}
    await api.merge_all((f"{path}/{body['metadata']['name']}/status", status) for path, body in runs)
