"""The cluster of tests/cluster, of which this folder stops parts: it has it alone, one test at a time."""

from tests.cluster.conftest import environment, pytest_sessionstart, tenant

__all__ = ["environment", "pytest_sessionstart", "tenant"]
