"""The object store is away while a real training goes on in the cluster: it ends with a whole adapter all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import (
    REAL_TRAINING,
    TRAINING_CLASS,
    TRAINING_PATIENCE,
    Body,
    Tenant,
    ready_reason,
    small_training,
)
from tests.cluster.settings import NODE_ADDRESS
from tests.demo import object_store
from tests.demo.environment import Environment
from tests.support.toxiproxy import Proxy, proxied

STEPS = 4


@pytest.fixture
def proxy(environment: Environment, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy on the node before the demo's object store."""
    service = environment.kubectl.get("-n", object_store.NAMESPACE, "service", "object-store")["spec"]
    upstream = f"{service['clusterIP']}:{service['ports'][0]['port']}"
    with proxied(upstream, folder=tmp_path, host=NODE_ADDRESS) as proxy:
        yield proxy


@pytest.fixture
def class_name(tenant: Tenant, proxy: Proxy) -> Iterator[str]:
    """The demo's class, with the proxy as its object store."""
    with tenant.own_class(like=TRAINING_CLASS, storage={"endpoint": f"http://{proxy.address}"}) as name:
        yield name


@REAL_TRAINING
def test_training_survives_outages_of_its_object_store(
    environment: Environment, tenant: Tenant, proxy: Proxy, class_name: str
) -> None:
    spec = small_training(maxSteps=STEPS, saveSteps=1, gradientAccumulationSteps=1)
    spec["evaluation"]["maxRows"] = 64  # long enough to be seen at it
    tenant.apply("run", className=class_name, **spec)
    tenant.wait_for_reason("run", "Training", seconds=TRAINING_PATIENCE)

    first = tenant.wait_for_progress("run", lambda progress: progress.get("checkpointStep", 0) >= 1, "a checkpoint")
    with proxy.away():  # for longer than requests are retried
        tenant.wait("run", lambda run: reasons(run) == ["Succeeded", "StorageUnavailable"], "an end")

    last = tenant.wait_for_progress(
        "run", lambda progress: progress["phase"] == "Evaluating", "its evaluation", attempt=2
    )
    with proxy.away():  # for as long as requests are retried
        time.sleep(10)

    run = tenant.wait_for_training("run")
    assert reasons(run) == ["Succeeded", "StorageUnavailable", "Succeeded"]
    assert ready_reason(run) == "AdapterPublished"
    assert last["resumedFromStep"] >= first["checkpointStep"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        manifest = object_store.whole_adapter(store, run["status"]["artifact"]["uri"])
    assert manifest["steps"] == STEPS


def reasons(run: Body) -> list[str]:
    """How each attempt ended."""
    return [attempt["reason"] for attempt in run["status"].get("attempts", []) if "reason" in attempt]
