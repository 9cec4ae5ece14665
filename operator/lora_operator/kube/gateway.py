"""Requests to the API server with plain dicts as bodies. Makes no decisions and keeps no cache."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from lora_operator import naming
from lora_operator.kube.errors import Garbled, NotFound, NotLeading, Unavailable, error_of, seconds_of

Body = dict[str, Any]
PAGE = 500
TIMEOUT_SECONDS = 20.0
SHORTEST_TIMEOUT_SECONDS = 0.1
"""A write that must end sooner is not sent."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A kind of object and its API path."""

    prefix: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of one object, of its subresource, or of the list of all objects (of a namespace)."""
        parts = [self.prefix]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural] + [part for part in (name, subresource) if part is not None]
        return "/" + "/".join(parts)


CUSTOM = f"apis/{naming.API_VERSION}"
RUNS = Resource(prefix=CUSTOM, plural=naming.RUN_PLURAL, kind=naming.RUN_KIND)
CLASSES = Resource(prefix=CUSTOM, plural=naming.CLASS_PLURAL, kind=naming.CLASS_KIND, namespaced=False)
JOBS = Resource(prefix="apis/batch/v1", plural="jobs", kind="Job")
PODS = Resource(prefix="api/v1", plural="pods", kind="Pod")
CONFIG_MAPS = Resource(prefix="api/v1", plural="configmaps", kind="ConfigMap")
NAMESPACES = Resource(prefix="api/v1", plural="namespaces", kind="Namespace", namespaced=False)
SERVICES = Resource(prefix="api/v1", plural="services", kind="Service")
LEASES = Resource(prefix="apis/coordination.k8s.io/v1", plural="leases", kind="Lease")
EVENTS = Resource(prefix="api/v1", plural="events", kind="Event")
WORKLOADS = Resource(prefix=f"apis/{naming.KUEUE_GROUP}/v1beta2", plural="workloads", kind="Workload")
VISIBLE_QUEUES = Resource(
    prefix=f"apis/visibility.{naming.KUEUE_GROUP}/v1beta2", plural="localqueues", kind="LocalQueue"
)
CHILD_KINDS = {resource.kind: resource for resource in (JOBS, CONFIG_MAPS, SERVICES)}

# For this content type without the charset, the client would write plain JSON.
APPLY = "application/apply-patch+yaml; charset=utf-8"
METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "delete": "DELETE", "patch": "PATCH"}

Recorder = Callable[[str, Resource, int], None]
"""Called with verb, resource and status code of every request; code 0 means no answer."""


class Gateway:
    """Requests to one API server."""

    def __init__(
        self, api: client.ApiClient, *, record: Recorder, seconds_to_write: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._api = api
        self._record = record
        self._seconds_to_write = seconds_to_write
        self._unanswered: set[asyncio.Future[Body]] = set()

    def writing_within(self, seconds_to_write: Callable[[], float]) -> Gateway:
        """The same gateway, whose writes end within the seconds that are left, for both sides. Raises NotLeading for a
        write for which none are left."""
        return Gateway(self._api, record=self._record, seconds_to_write=seconds_to_write)

    async def writes_ended(self) -> None:
        """Wait until each write that was sent has its answer or has run out of time, also one whose caller was
        cancelled."""
        await asyncio.gather(*self._unanswered, return_exceptions=True)

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server has this kind in this version."""
        try:
            found = await self._request("list", resource, f"/{resource.prefix}")
        except NotFound:
            return False
        return any(entry.get("name") == resource.plural for entry in _objects(found, "resources"))

    async def get(
        self, resource: Resource, namespace: str | None, name: str, *, subresource: str | None = None
    ) -> Body:
        """One object, or its subresource."""
        return await self._request("get", resource, resource.path(namespace, name, subresource))

    async def list(
        self, resource: Resource, namespace: str | None = None, *, selector: str = "", fields: str = ""
    ) -> AsyncIterator[Body]:
        """All objects that the label and field selectors match, page by page."""
        selectors = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(PAGE)} | {name: text for name, text in selectors.items() if text}
        while True:
            page = await self._request("list", resource, resource.path(namespace), query=query)
            for item in _objects(page, "items"):
                yield item
            metadata = page.get("metadata")
            token = metadata.get("continue") if isinstance(metadata, dict) else None
            if not token:
                return
            query["continue"] = str(token)

    async def create(self, resource: Resource, body: Body) -> Body:
        """Create an object. Raises AlreadyExists."""
        path = resource.path(body["metadata"]["namespace"])
        return await self._request("create", resource, path, body=body, query={"fieldManager": naming.FIELD_MANAGER})

    async def update(self, resource: Resource, body: Body) -> Body:
        """Replace an object if it is still the version that was read. Raises Conflict otherwise."""
        metadata = body["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        return await self._request("update", resource, path, body=body, query={"fieldManager": naming.FIELD_MANAGER})

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Delete an object after its dependants. With `uid`, raises Conflict for another object of that name."""
        body: Body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        await self._request("delete", resource, resource.path(namespace, name), body=body)

    async def apply_status(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str, resource_version: str, status: Body
    ) -> Body:
        """Apply the whole status that the operator owns, if the object is still the version that was read.

        Raises Conflict otherwise."""
        metadata = {"name": name, "uid": uid, "resourceVersion": resource_version}
        metadata |= {"namespace": namespace} if namespace is not None else {}
        body = {"apiVersion": naming.API_VERSION, "kind": resource.kind, "metadata": metadata, "status": status}
        path = resource.path(namespace, name, "status")
        query = {"fieldManager": naming.FIELD_MANAGER, "force": "true"}
        return await self._request("patch", resource, path, body=as_yaml(body), query=query, content=APPLY)

    async def _request(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Body | str | None = None,
        content: str = "application/json",
    ) -> Body:
        query = query or {}
        if METHODS[verb] == "GET":
            return await self._exchange(verb, resource, path, query=query, body=body, content=content)
        seconds = min(self._seconds_to_write(), TIMEOUT_SECONDS)
        if seconds < SHORTEST_TIMEOUT_SECONDS:
            raise NotLeading(f"{verb} {path}: not sent, because this operator is not the leader", status=0)
        # The API server drops a request that it has not carried out in this time, even if it hears nothing more of the
        # client. Cancelling the caller would not take back what was sent.
        query |= {"timeout": f"{math.floor(seconds * 1000)}ms"}
        sent = asyncio.ensure_future(
            self._exchange(verb, resource, path, query=query, body=body, content=content, seconds=seconds)
        )
        self._unanswered.add(sent)
        sent.add_done_callback(self._ended)
        return await asyncio.shield(sent)

    def _ended(self, sent: asyncio.Future[Body]) -> None:
        self._unanswered.discard(sent)
        if not sent.cancelled():
            sent.exception()  # of a caller that was cancelled, nobody else asks for it

    async def _exchange(
        self,
        verb: str,
        resource: Resource,
        path: str,
        *,
        query: dict[str, str],
        body: Body | str | None,
        content: str,
        seconds: float = TIMEOUT_SECONDS,
    ) -> Body:
        headers = {"Content-Type": content, "Accept": "application/json"}
        try:
            _, url, headers, payload, _ = await self._api.param_serialize(
                method=METHODS[verb],
                resource_path=path,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            url = f"{url}?{urlencode(query)}" if query else url
            response = await self._api.call_api(METHODS[verb], url, headers, payload, _request_timeout=seconds)
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as problem:
            self._record(verb, resource, 0)
            raise Unavailable(f"{verb} {path}: {type(problem).__name__}: {problem}", status=0) from problem
        self._record(verb, resource, response.status)
        return _answer(f"{verb} {path}", response, data)


def as_yaml(body: Body) -> str:
    """JSON that a YAML parser can read. YAML accepts neither surrogate escapes, which JSON uses for characters of more
    than 16 bits, nor unescaped control characters."""
    text = json.dumps(body, ensure_ascii=False)
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _answer(what: str, response: Any, data: bytes) -> Body:
    try:
        answer = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        answer = None
    if response.status < 300 and isinstance(answer, dict):
        return answer
    if not isinstance(answer, dict):
        answer = {"message": data[:200].decode(errors="replace")}
    if response.status < 300:
        raise Garbled(f"{what}: the answer is no JSON object: {answer['message']}", status=response.status)
    raise error_of(
        what=what,
        status=response.status,
        reason=answer.get("reason", ""),
        said=str(answer.get("message", response.status)),
        retry_after=seconds_of((response.getheaders() or {}).get("Retry-After")),
    )


def _objects(answer: Body, field: str) -> list[Body]:
    """The objects that an answer lists. Go writes an empty list as null, too."""
    listed = answer.get(field) or []
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Garbled(f"The answer of the API server has no list of objects in {field}", status=200)
    return listed


@asynccontextmanager
async def connect(*, record: Recorder) -> AsyncIterator[Gateway]:
    """A gateway that uses the pod's ServiceAccount or, outside a pod, the kubeconfig."""
    settings = client.Configuration()
    settings.connection_pool_maxsize = 100
    # The kubeconfig names a proxy where one is needed. The client would also look in the environment and in ~/.netrc
    # at each request, which costs more than the rest of the request.
    settings.client_session_kwargs = {"trust_env": False}
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        # The client reads KUBECONFIG when it is imported, Kopf when it logs in: both must mean the same cluster.
        await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
    async with client.ApiClient(configuration=settings) as api:
        api.user_agent = naming.FIELD_MANAGER
        yield Gateway(api, record=record)
