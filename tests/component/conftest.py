"""A world per test, with or without an operator in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.component.world import World, a_world, an_operator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the simulation: it computes for a minute, while other workers' tests wait for their operators."""
    items.sort(key=lambda item: item.path.name != "test_simulated_faults.py")


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the operator finds its API server, as outside a pod."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
async def bare_world() -> AsyncIterator[World]:
    """A world with a default class and no operator."""
    async with a_world() as world:
        yield world


@pytest.fixture
async def world(bare_world: World, kubeconfig: Path) -> AsyncIterator[World]:
    """A world with a default class in which the operator runs."""
    async with an_operator(bare_world, kubeconfig):
        yield bare_world
