"""The API server as a client sees it that asks for much at once: creates, counts, refusals, and nothing cached."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from .pki import CA_FILE
from .settings import API_URL, Paths

Body = dict[str, Any]
CONCURRENT_REQUESTS = 20
COUNT_EVERY = 0.1


class Refused(Exception):
    """The API server did not do what was asked."""

    def __init__(self, what: str, *, status: int, text: str) -> None:
        super().__init__(f"{what}: {status} {text[:300]}")
        self.status = status
        self.text = text

    @property
    def answer(self) -> Body:
        """The metav1.Status; of an answer that is none, its text as the message."""
        try:
            answer = json.loads(self.text)
        except ValueError:
            answer = None
        return answer if isinstance(answer, dict) else {"message": self.text}


@dataclass(frozen=True, kw_only=True)
class Api:
    """Requests as the cluster's admin."""

    session: aiohttp.ClientSession

    async def request(self, method: str, path: str, body: object = None, *, content: str = "application/json") -> Body:
        """One request; `path` begins with a slash. Raises Refused."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content}
        async with self.session.request(method, API_URL + path, data=data, headers=headers) as response:
            text = await response.text()
            if response.status >= 300:
                raise Refused(f"{method} {path}", status=response.status, text=text)
            return json.loads(text)

    async def create_all(self, objects: Iterable[tuple[str, Body]]) -> None:
        """Create each body at its path, twenty at a time."""
        await self._request_all("POST", objects, content="application/json")

    async def merge_all(self, patches: Iterable[tuple[str, Body]]) -> None:
        """Merge each patch into the object at its path, twenty at a time."""
        await self._request_all("PATCH", patches, content="application/merge-patch+json")

    async def _request_all(self, method: str, bodies: Iterable[tuple[str, Body]], *, content: str) -> None:
        gate = asyncio.Semaphore(CONCURRENT_REQUESTS)

        async def send(path: str, body: Body) -> None:
            async with gate:
                await self.request(method, path, body, content=content)

        async with asyncio.TaskGroup() as tasks:
            for path, body in bodies:
                tasks.create_task(send(path, body))

    async def count(self, path: str) -> int:
        """How many objects there are at a path, of which one is read."""
        joint = "&" if "?" in path else "?"
        page = await self.request("GET", f"{path}{joint}limit=1")
        return len(page["items"]) + page["metadata"].get("remainingItemCount", 0)

    async def until_count(self, path: str, wanted: int, *, seconds: float) -> float:
        """Wait until there are so many; the seconds it took, by `time.monotonic`. Raises TimeoutError."""
        began = time.monotonic()
        while (found := await self.count(path)) != wanted:
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{path}: {found} instead of {wanted} after {seconds:.0f} s")
            await asyncio.sleep(COUNT_EVERY)
        return time.monotonic() - began


@asynccontextmanager
async def connect(paths: Paths) -> AsyncIterator[Api]:
    """A client with the admin's certificate."""
    context = ssl.create_default_context(cafile=str(paths.pki / CA_FILE))
    context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
    connector = aiohttp.TCPConnector(ssl=context, limit=CONCURRENT_REQUESTS + 5)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session=session)
