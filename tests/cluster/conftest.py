"""The real cluster for the tests of this folder. What is missing fails the run with a sentence; nothing skips."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from tests.cluster import images, loading
from tests.cluster.runs import Tenant
from tests.cluster.settings import HERE, Paths
from tests.demo.environment import OPERATOR_IMAGE, Environment, ensure_environment
from tests.demo.timings import Timings

SCRIPTED_TRAINER = HERE / "scripted_trainer"
SCRIPTED_IMAGE = "localhost/lora-operator/scripted-trainer:dev"


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Cluster, operator, object store, model and rows."""
    timings = Timings(console=Console(width=120))
    environment = ensure_environment(timings)
    timings.console.print(timings.table())
    return environment


@pytest.fixture(scope="session")
def scripted_class(environment: Environment) -> Iterator[str]:
    """A class whose trainer image plays scenarios."""
    paths = Paths.from_environment()
    images.build(
        paths=paths,
        context=SCRIPTED_TRAINER,
        file=SCRIPTED_TRAINER / "Dockerfile",
        tag=SCRIPTED_IMAGE,
        arguments={"BASE_IMAGE": OPERATOR_IMAGE},
        report=print,
    )
    loading.load(paths=paths, tag=SCRIPTED_IMAGE, report=print)
    kubectl = environment.kubectl
    body: dict[str, Any] = kubectl.get("lorafinetuneclass", "cpu-demo")
    spec = body["spec"] | {
        "image": SCRIPTED_IMAGE,
        "prepare": {"cpu": "50m", "memory": "128Mi", "scratch": "1Gi"},
        "train": {"cpu": "50m", "memory": "128Mi", "scratch": "1Gi"},
        "terminationGracePeriodSeconds": 30,
    }
    kubectl.apply(
        {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": "scripted"}, "spec": spec}
    )
    yield "scripted"
    kubectl("delete", "lorafinetuneclass", "scripted", "--ignore-not-found")


@pytest.fixture
def tenant(environment: Environment) -> Iterator[Tenant]:
    """A namespace of its own with bucket credentials, gone after the test."""
    tenant = Tenant(kubectl=environment.kubectl, namespace=f"test-{uuid.uuid4().hex[:8]}")
    tenant.create(environment.account)
    yield tenant
    tenant.delete()
