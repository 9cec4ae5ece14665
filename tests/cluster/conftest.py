"""The real cluster for the tests of this folder. What is missing fails the run with a sentence; nothing skips.

The environment is made once, before pytest's workers start; they only connect to it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.cluster import images, loading
from tests.cluster.commands import ClusterError, RequirementError
from tests.cluster.runs import (
    FIRST_LAYERS_PREFIX,
    SCRIPTED_IMAGE,
    TENANT_PREFIX,
    Tenant,
    scripted_class,
    training_class,
)
from tests.cluster.settings import HERE, Paths
from tests.demo import object_store
from tests.demo.environment import OPERATOR_IMAGE, Environment, ensure_environment, existing_environment
from tests.demo.kubectl import Kubectl, KubectlError
from tests.demo.timings import Timings
from tests.support.demo_assets import ensure_demo_assets
from tests.support.first_layers import write_first_layers

LONGEST = "test_training.py"
SCRIPTED_TRAINER = HERE / "scripted_trainer"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the environment, in the process that starts the workers."""
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    timings = Timings(console=Console(width=120))
    try:
        environment = ensure_environment(timings)
        if environment.own_cluster:
            _end_earlier_runs(environment.kubectl)
        with timings.part("scripted trainer"):
            _ensure_scripted_class(environment.kubectl)
        environment.kubectl.apply(training_class())
        with timings.part("model's first layers"):
            _upload_first_layers(environment)
    except (ClusterError, RequirementError, KubectlError) as problem:
        raise pytest.UsageError(str(problem)) from problem
    timings.console.print(timings.table())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that trains longest, and go on with those of many tests, as pytest-xdist would."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != LONGEST, -tests[item.path]))


def _end_earlier_runs(kubectl: Kubectl) -> None:
    """Remove the runs of a demo, or of interrupted tests: they hold the processors that the tests' pods need."""
    kubectl("delete", "lorafinetunes", "--all", "--all-namespaces")
    namespaces = kubectl("get", "namespaces", "-o", "name").split()
    left = [name for name in namespaces if name.removeprefix("namespace/").startswith(TENANT_PREFIX)]
    if left:
        kubectl("delete", *left, "--wait=false")


def _ensure_scripted_class(kubectl: Kubectl) -> None:
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
    kubectl.apply(scripted_class())


def _upload_first_layers(environment: Environment) -> None:
    """The model that most of these tests train."""
    model = ensure_demo_assets().model
    with (
        tempfile.TemporaryDirectory() as folder,
        object_store.bucket(environment.kubectl, environment.account) as store,
    ):
        object_store.upload_folder(store, write_first_layers(model, Path(folder) / "model"), FIRST_LAYERS_PREFIX)


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Cluster, operator, object store, model and rows."""
    return existing_environment()


@pytest.fixture
def tenant(environment: Environment) -> Iterator[Tenant]:
    """A namespace of its own with bucket credentials. It goes after the test; nobody waits for it."""
    tenant = Tenant.fresh(environment.kubectl)
    tenant.create(environment.account)
    yield tenant
    tenant.delete()
