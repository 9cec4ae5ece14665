"""The cluster of tests/cluster, from which each test of this folder takes the operator and brings it in its own way.

It has the cluster alone, one test at a time; the next suite that needs the operator installs it again.
"""

from __future__ import annotations

import pytest

from tests.cluster.conftest import environment, pytest_sessionstart, tenant
from tests.demo.environment import MANIFESTS, Environment
from tests.demo.kubectl import Kubectl

__all__ = ["environment", "pytest_sessionstart", "tenant"]


@pytest.fixture
def bare(environment: Environment) -> Kubectl:
    """The cluster without anything of ours, bar the object store and the tenants' namespaces."""
    kubectl = environment.kubectl
    if kubectl.find("crd", "lorafinetunes.lora-operator.io"):
        kubectl("delete", "lorafinetunes", "--all", "--all-namespaces")
    kubectl("delete", "-k", MANIFESTS / "install", "--ignore-not-found")
    return kubectl
