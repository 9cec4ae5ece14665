"""A running fake API server and clients for the tests of the fake itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.fakes.apiserver import FakeApiServer
from tests.unit.fakes.samples import CRD


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer(crds=[CRD], bookmark_interval=0.05) as running:
        yield running


@pytest.fixture
async def http(server: FakeApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, headers={"User-Agent": "tester/1"}) as session:
        yield session
