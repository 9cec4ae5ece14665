"""HTTP for the fake API server: requests become calls on the store, ApiErrors become `Status` bodies."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import yaml
from aiohttp import web

from . import apply, discovery, patching, rules
from .apply import Manager
from .errors import ApiError, expired, invalid
from .faults import Fault, Faults, RecordedRequest
from .resources import Obj, Resource, Target, parse_path
from .selectors import object_predicate
from .store import Store
from .watching import WatchHub, WatchQuery

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_HEALTH = ("/healthz", "/livez", "/readyz")


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The rest of a list that was handed out in chunks, frozen at its revision."""

    revision: int
    items: list[Obj]


@dataclass(kw_only=True)
class Routes:
    """The one request handler, and what it needs."""

    store: Store
    hub: WatchHub
    faults: Faults
    requests: list[RecordedRequest] = field(default_factory=list)
    violations: list[RecordedRequest] = field(default_factory=list)
    crashes: list[Exception] = field(default_factory=list)
    _pages: dict[str, _Page] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        target = parse_path(request.path)
        recorded = await _record(request, target)
        self.requests.append(recorded)
        fault = self.faults.take(recorded)
        if fault is not None and fault.delay:
            await asyncio.sleep(min(fault.delay, recorded.time_limit))
        if fault is not None and fault.delay > recorded.time_limit:
            response = _error_response(ApiError(504, "request did not complete within the requested timeout"))
        elif fault is None or not fault.breaks:
            response = await self._answer(request, recorded, target)
        else:
            if fault.committed:
                await self._answer(request, recorded, target)
            response = _break(request, fault, recorded)
        recorded.status = None if fault is not None and fault.drop_connection else response.status
        return response

    async def _answer(
        self, request: web.Request, recorded: RecordedRequest, target: Target | None
    ) -> web.StreamResponse:
        try:
            resource = self._resource(recorded, target)
            if target is None or resource is None:
                return self._answer_other(request.path)
            if recorded.verb == "watch":
                return await self.hub.serve(request, self.watch_query(recorded, resource, target))
            code, body = self._call(recorded, resource, target)
            return web.json_response(body, status=code)
        except ApiError as error:
            return _error_response(error)
        except Exception as error:
            self.crashes.append(error)
            raise

    def call(self, recorded: RecordedRequest, target: Target) -> tuple[int, Obj]:
        """Status code and body for one request that is no watch, without HTTP, faults or records."""
        try:
            resource = self._resource(recorded, target)
            if resource is None:
                raise ApiError(404, "the server could not find the requested resource")
            return self._call(recorded, resource, target)
        except ApiError as error:
            return error.code, error.body()

    def _resource(self, recorded: RecordedRequest, target: Target | None) -> Resource | None:
        """What is asked for; None outside the resource paths. Raises ApiError 403 or 404."""
        if target is not None and target.plural == "secrets":
            self.violations.append(recorded)
            raise ApiError(403, "secrets is forbidden: the operator has no business with Secrets")
        resource = self.store.resources.at(target) if target is not None else None
        has_subresource = target is None or resource is None or target.subresource in _subresources(resource)
        if not has_subresource:
            raise ApiError(404, "the server could not find the requested resource")
        return resource

    def _answer_other(self, path: str) -> web.Response:
        if path in _HEALTH:
            return web.Response(text="ok")
        document = discovery.document(path, self.store.resources)
        if document is None:
            raise ApiError(404, "the server could not find the requested resource")
        return web.json_response(document)

    def _call(self, request: RecordedRequest, resource: Resource, target: Target) -> tuple[int, Obj]:
        name = target.name or ""
        match request.verb:
            case "get":
                found = self.store.get(resource, target.namespace, name)
                return 200, found[target.subresource] if target.subresource in resource.parts else found
            case "list":
                return 200, self._list(request, resource, target)
            case "create":
                return 201, self._create(request, resource, target)
            case "update":
                return 200, self._replace(request, resource, target)
            case "patch":
                return self._patch(request, resource, target)
            case "delete":
                return 200, self._delete(request, resource, target.namespace, name)
            case "deletecollection":
                listed = self._list(request, resource, target)
                for obj in listed["items"]:
                    self._delete(request, resource, obj["metadata"].get("namespace"), obj["metadata"]["name"])
                return 200, listed
        raise ApiError(405, f"the server does not allow {request.method} on {request.path}")

    def _list(self, request: RecordedRequest, resource: Resource, target: Target) -> Obj:
        limit = int(request.query.get("limit", 0))
        token = request.query.get("continue")
        if token:
            page = self._pages.pop(token, None)
            if page is None or page.revision < self.store.compacted:
                raise expired(page.revision if page else 0, self.store.compacted)
        else:
            matches = _selector(request)
            items = [obj for obj in self.store.list_objects(resource, target.namespace) if matches(obj)]
            page = _Page(revision=self.store.revision, items=items)
        metadata: Obj = {"resourceVersion": str(page.revision)}
        items = page.items[:limit] if limit else page.items
        if len(items) < len(page.items):
            metadata["continue"] = uuid.uuid4().hex
            metadata["remainingItemCount"] = len(page.items) - len(items)
            self._pages[metadata["continue"]] = _Page(revision=page.revision, items=page.items[limit:])
        kind = f"{resource.kind}List"
        return {"kind": kind, "apiVersion": resource.api_version, "metadata": metadata, "items": items}

    def _create(self, request: RecordedRequest, resource: Resource, target: Target) -> Obj:
        body = _located(_object(request.body), resource, target)
        return self.store.create(resource, body, manager=_updater(request), strict=_is_strict(request))

    def _replace(self, request: RecordedRequest, resource: Resource, target: Target) -> Obj:
        body = _located(_object(request.body), resource, target)
        if not body["metadata"].get("resourceVersion"):
            rules.check_unconditional_update(resource, body["metadata"]["name"])
        return self.store.update(resource, body, manager=_updater(request), strict=_is_strict(request))

    def _patch(self, request: RecordedRequest, resource: Resource, target: Target) -> tuple[int, Obj]:
        if request.is_apply:
            return self._apply(request, resource, target)
        live = self.store.get(resource, target.namespace, target.name or "")
        patched = patching.apply_patch(live, request.body, content_type=request.content_type, custom=resource.custom)
        body = _located(patched, resource, target)
        return 200, self.store.update(resource, body, manager=_updater(request), strict=_is_strict(request))

    def _apply(self, request: RecordedRequest, resource: Resource, target: Target) -> tuple[int, Obj]:
        field_manager = request.query.get("fieldManager")
        if not field_manager:
            raise invalid("meta.k8s.io", "PatchOptions", "", [("fieldManager", "Required value: for an apply patch")])
        body = _located(_object(request.body), resource, target)
        if body["metadata"].get("managedFields"):
            raise ApiError(400, "metadata.managedFields must be nil")
        live = self.store.find(resource, target.namespace, target.name or "")
        if live is None and target.subresource:
            self.store.get(resource, target.namespace, target.name or "")
        manager = Manager(name=field_manager, operation="Apply", subresource=target.subresource)
        start = live or {"metadata": _pick(body["metadata"], "name", "namespace")}
        force = request.query.get("force") == "true"
        merged, owners = apply.apply(live=start, applied=body, manager=manager, force=force, resource=resource)
        strict = _is_strict(request)
        if live is None:
            return 201, self.store.create(resource, merged, manager=manager, owners=owners, strict=strict)
        merged = merged | {"metadata": merged["metadata"] | _pick(body["metadata"], "uid", "resourceVersion")}
        return 200, self.store.update(resource, merged, manager=manager, owners=owners, strict=strict)

    def _delete(self, request: RecordedRequest, resource: Resource, namespace: str | None, name: str) -> Obj:
        options: Obj = {**(request.body or {}), **request.query}
        preconditions = options.get("preconditions") or {}
        grace = options.get("gracePeriodSeconds")
        obj, gone = self.store.delete(
            resource,
            namespace,
            name,
            propagation=options.get("propagationPolicy"),
            grace=int(grace) if grace is not None else None,
            uid=preconditions.get("uid"),
            resource_version=preconditions.get("resourceVersion"),
        )
        if not gone or resource.kind == "Pod":
            return obj
        details = {"name": name, "kind": resource.plural, "uid": obj["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def watch_query(self, request: RecordedRequest, resource: Resource, target: Target) -> WatchQuery:
        query = request.query
        version = query.get("resourceVersion", "")
        if version and not version.isdigit():
            raise ApiError(400, f"invalid resource version {version!r}")
        timeout = query.get("timeoutSeconds")
        return WatchQuery(
            resource=resource,
            namespace=target.namespace,
            matches=_selector(request),
            revision=int(version) if version not in ("", "0") else None,
            bookmarks=query.get("allowWatchBookmarks") in ("true", "1"),
            initial_events=query.get("sendInitialEvents") in ("true", "1"),
            timeout=float(timeout) if timeout else None,
        )


def _subresources(resource: Resource) -> tuple[str, ...]:
    return ("", *resource.parts, *(["status"] if resource.has_status else []))


async def _record(request: web.Request, target: Target | None) -> RecordedRequest:
    return record(
        target,
        method=request.method,
        path=request.path,
        query=dict(request.query),
        user_agent=request.headers.get("User-Agent", ""),
        content_type=request.content_type,
        body=_parse(await request.read()),
    )


def record(
    target: Target | None,
    *,
    method: str,
    path: str,
    query: dict[str, str],
    user_agent: str,
    content_type: str,
    body: Any,
) -> RecordedRequest:
    """The record of a request, with the verb that RBAC would give it."""
    named = target is not None and target.name is not None
    verb = _VERBS.get(method, method.lower())
    if method == "DELETE" and not named:
        verb = "deletecollection"
    if method == "GET" and target is not None and not named:
        verb = "watch" if query.get("watch") in ("true", "True", "1") else "list"
    return RecordedRequest(
        verb=verb,
        method=method,
        path=path,
        resource=(f"{target.plural}.{target.group}" if target.group else target.plural) if target else "",
        subresource=target.subresource if target else "",
        namespace=(target.namespace or "") if target else "",
        name=(target.name or "") if target else "",
        query=query,
        user_agent=user_agent,
        content_type=content_type,
        body=body,
    )


def _parse(payload: bytes) -> Any:
    """JSON, or the YAML that an apply patch may be; None for no body, the raw text for what is neither."""
    if not payload:
        return None
    try:
        return json.loads(payload)
    except ValueError:
        try:
            return yaml.safe_load(payload)
        except yaml.YAMLError:
            return payload.decode(errors="replace")


def _break(request: web.Request, fault: Fault, recorded: RecordedRequest) -> web.Response:
    if fault.drop_connection:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    if fault.content is not None:
        return web.Response(text=fault.content, status=fault.status or 200, headers=headers)
    assert fault.status is not None
    details: Obj = {"name": recorded.name, "kind": recorded.resource.partition(".")[0]}
    if isinstance(fault.retry_after, int):
        details["retryAfterSeconds"] = fault.retry_after
    message = f"injected fault: {recorded.verb} {recorded.path}"
    error = ApiError(fault.status, message, reason=fault.reason, details=details)
    return web.json_response(error.body(), status=error.code, headers=headers)


def _error_response(error: ApiError) -> web.Response:
    retry_after = error.details.get("retryAfterSeconds")
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    return web.json_response(error.body(), status=error.code, headers=headers)


def _object(body: Any) -> Obj:
    if not isinstance(body, dict):
        raise ApiError(400, "the request body is not an object")
    return body


def _located(body: Obj, resource: Resource, target: Target) -> Obj:
    """`body` with the kind, namespace and name of the URL. Raises ApiError 400 where they contradict each other."""
    metadata = dict(body.get("metadata") or {})
    served = (resource.api_version, resource.kind)
    stated = (body.get("apiVersion", served[0]), body.get("kind", served[1]))
    if stated != served:
        raise ApiError(400, f"{' '.join(stated)} in the request body does not match {' '.join(served)} in the URL")
    if resource.namespaced and target.namespace is None:
        raise ApiError(405, "a namespaced object is written below its namespace")
    for key, value in (("namespace", target.namespace), ("name", target.name)):
        if value is not None and metadata.setdefault(key, value) != value:
            message = f"the {key} of the object ({metadata[key]}) does not match the {key} on the URL ({value})"
            raise ApiError(400, message)
    return body | {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def _pick(mapping: Obj, *keys: str) -> Obj:
    return {key: mapping[key] for key in keys if key in mapping}


def _selector(request: RecordedRequest) -> Any:
    return object_predicate(
        labels=request.query.get("labelSelector", ""), fields=request.query.get("fieldSelector", "")
    )


def _updater(request: RecordedRequest) -> Manager:
    name = request.query.get("fieldManager") or request.user_agent.partition("/")[0] or "unknown"
    return Manager(name=name, operation="Update", subresource=request.subresource)


def _is_strict(request: RecordedRequest) -> bool:
    return request.query.get("fieldValidation") == "Strict"
