"""The object store behind the fake API server: versions, generations, finalizers, graceful deletion, a change log.

No I/O and no HTTP: the clock is given, every write is one synchronous call. Stored objects are never changed in place,
so the log can share them; callers that hand objects to tests copy them first.
"""

from __future__ import annotations

import random
import string
import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from . import apply, errors, rules, schema
from .apply import Manager, Owners
from .errors import ApiError
from .resources import Obj, Resource, ResourceTable, object_key

_FIRST_REVISION = 1000
_SET_BY_SERVER = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
_BOOKKEEPING = ("resourceVersion", "managedFields")
_FIXED = ("name", "namespace", *_SET_BY_SERVER)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One committed write. `new` of a deletion is None; `old` then carries the revision of the deletion."""

    revision: int
    key: str
    old: Obj | None
    new: Obj | None


class Store:
    """All objects of all resources, and every change since the start."""

    def __init__(
        self, *, resources: ResourceTable, clock: Callable[[], datetime], rng: random.Random | None = None
    ) -> None:
        self._rng = rng or random.Random()
        self.resources = resources
        self.revision = _FIRST_REVISION
        self.compacted = 0
        self.listeners: list[Callable[[Change], None]] = []
        self._clock = clock
        self._objects: dict[str, dict[tuple[str, str], Obj]] = defaultdict(dict)
        self._changes: dict[str, list[Change]] = defaultdict(list)

    def now(self, *, ahead: float = 0) -> str:
        """The time, or the one so many seconds ahead."""
        return (self._clock() + timedelta(seconds=ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def list_objects(self, resource: Resource, namespace: str | None = None) -> list[Obj]:
        """Ordered by namespace and name; all namespaces when None."""
        objects = self._objects[resource.key]
        return [objects[key] for key in sorted(objects) if namespace in (None, key[0])]

    def find(self, resource: Resource, namespace: str | None, name: str) -> Obj | None:
        return self._objects[resource.key].get((namespace or "", name))

    def get(self, resource: Resource, namespace: str | None, name: str) -> Obj:
        found = self.find(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return found

    def changes_since(self, key: str, revision: int) -> list[Change]:
        """Changes of one resource after `revision`, in order."""
        log = self._changes[key]
        return log[bisect_right(log, revision, key=lambda change: change.revision) :]

    def compact(self) -> None:
        """Forget history: a watch from an older revision is answered with 410."""
        self.compacted = self.revision
        self._changes.clear()

    def create(
        self, resource: Resource, body: Obj, *, manager: Manager, owners: Owners | None = None, strict: bool = False
    ) -> Obj:
        """Raises ApiError 400, 403, 404, 409 (AlreadyExists) or 422."""
        metadata = {
            key: value for key, value in body["metadata"].items() if key not in (*_SET_BY_SERVER, *_BOOKKEEPING)
        }
        if body["metadata"].get("resourceVersion"):
            raise ApiError(400, "resourceVersion should not be set on objects to be created")
        if not metadata.get("name"):
            metadata["name"] = self._generated_name(metadata.get("generateName"), resource)
        metadata |= {"uid": str(uuid.UUID(int=self._rng.getrandbits(128), version=4)), "creationTimestamp": self.now()}
        if resource.has_generation:
            metadata["generation"] = 1
        obj = body | {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        if resource.namespaced:
            namespace = self.find(self.resources.find("namespaces"), None, metadata["namespace"])
            rules.check_namespace(namespace, resource, obj)
        if self.find(resource, metadata.get("namespace"), metadata["name"]) is not None:
            raise errors.already_exists(resource.group, resource.plural, metadata["name"])
        if resource.has_status:
            obj.pop("status", None)
        obj = _admit(rules.on_create(obj, resource), resource, strict=strict)
        if owners is None:
            owners = apply.after_update(old=None, new=obj, manager=manager, resource=resource)
        return self._commit(resource, old=None, new=self._with_owners(obj, owners, previous=None))

    def update(
        self,
        resource: Resource,
        body: Obj,
        *,
        manager: Manager,
        owners: Owners | None = None,
        strict: bool = False,
    ) -> Obj:
        """Replace the object that `body` names; `manager.subresource` says which half of it is written.

        An update that changes nothing writes nothing. Raises ApiError 400, 404, 409 (stale resourceVersion, other uid)
        or 422.
        """
        namespace, name = object_key(body)
        old = self.get(resource, namespace, name)
        self._check_preconditions(resource, old, body["metadata"])
        new = _admit(_restrict(old, body, resource, manager.subresource), resource, strict=strict)
        rules.check_update(old, new, resource)
        if resource.has_generation and _desired(old, resource) != _desired(new, resource):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if owners is None:
            owners = apply.after_update(old=old, new=new, manager=manager, resource=resource)
        new = self._with_owners(new, owners, previous=old)
        if new == old:
            return old
        if _is_finally_deletable(new):
            return self._remove(resource, new)
        return self._commit(resource, old=old, new=new)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        propagation: str | None = None,
        grace: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> tuple[Obj, bool]:
        """The object as it is after the call, and whether it is gone. Raises ApiError 404 or 409."""
        old = self.get(resource, namespace, name)
        self._check_preconditions(resource, old, {"uid": uid, "resourceVersion": resource_version})
        metadata = old["metadata"]
        finalizers: list[str] = [*(metadata.get("finalizers") or ())]
        extra = {"Orphan": "orphan", "Foreground": "foregroundDeletion"}.get(
            propagation or rules.default_propagation(resource)
        )
        if extra and extra not in finalizers:
            finalizers.append(extra)
        if resource.kind == "Namespace" and not metadata.get("deletionTimestamp"):
            return self._terminate_namespace(resource, old), False
        seconds = rules.grace_period(old, resource, grace)
        marked = dict(metadata)
        if "deletionTimestamp" not in metadata or seconds < metadata.get("deletionGracePeriodSeconds", 0):
            # The real server tells when the object should be gone, not when its deletion was asked for.
            marked |= {"deletionTimestamp": self.now(ahead=seconds), "deletionGracePeriodSeconds": seconds}
        if finalizers:
            marked["finalizers"] = finalizers
        if resource.has_generation and not metadata.get("deletionTimestamp"):
            # The real server counts the wish to be deleted as a change of the desired state.
            marked["generation"] = metadata.get("generation", 0) + 1
        new = old | {"metadata": marked}
        if _is_finally_deletable(new):
            return self._remove(resource, old), True
        return (old if new == old else self._commit(resource, old=old, new=new)), False

    def _terminate_namespace(self, resource: Resource, old: Obj) -> Obj:
        metadata = old["metadata"] | {"deletionTimestamp": self.now()}
        return self._commit(resource, old=old, new=old | {"metadata": metadata, "status": {"phase": "Terminating"}})

    def finalize_namespace(self, name: str) -> None:
        """Remove a terminating namespace that is empty."""
        resource = self.resources.find("namespaces")
        self._remove(resource, self.get(resource, None, name))

    def _check_preconditions(self, resource: Resource, old: Obj, expected: Obj) -> None:
        name, uid = old["metadata"]["name"], old["metadata"]["uid"]
        if expected.get("uid") and expected["uid"] != uid:
            why = f"Precondition failed: UID in precondition: {expected['uid']}, UID in object meta: {uid}"
            raise errors.conflict(resource.group, resource.plural, name, why)
        if expected.get("resourceVersion") and expected["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise errors.conflict(resource.group, resource.plural, name)

    def _with_owners(self, obj: Obj, owners: Owners, *, previous: Obj | None) -> Obj:
        entries = apply.write_owners(owners, api_version=obj["apiVersion"], time=self.now(), previous=previous)
        metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
        return obj | {"metadata": metadata | ({"managedFields": entries} if entries else {})}

    def _commit(self, resource: Resource, *, old: Obj | None, new: Obj) -> Obj:
        self.revision += 1
        new = new | {"metadata": new["metadata"] | {"resourceVersion": str(self.revision)}}
        self._objects[resource.key][object_key(new)] = new
        self._log(Change(revision=self.revision, key=resource.key, old=old, new=new))
        return new

    def _remove(self, resource: Resource, obj: Obj) -> Obj:
        self.revision += 1
        last = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.revision)}}
        del self._objects[resource.key][object_key(obj)]
        self._log(Change(revision=self.revision, key=resource.key, old=last, new=None))
        return last

    def _generated_name(self, prefix: str | None, resource: Resource) -> str:
        if not prefix:
            cause = ("metadata.name", "Required value: name or generateName is required")
            raise errors.invalid(resource.group, resource.kind, "", [cause])
        return prefix + "".join(self._rng.choices(string.ascii_lowercase + string.digits, k=5))

    def _log(self, change: Change) -> None:
        self._changes[change.key].append(change)
        for listener in tuple(self.listeners):
            listener(change)


def _admit(obj: Obj, resource: Resource, *, strict: bool) -> Obj:
    """Prune, default and validate. Raises ApiError 400 (unknown field under strict validation) or 422."""
    if resource.schema is not None:
        obj, unknown = schema.prune(obj, resource.schema)
        if unknown and strict:
            fields = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise ApiError(400, f"strict decoding error: {fields}")
        obj = schema.apply_defaults(obj, resource.schema)
        causes = schema.violations(obj, resource.schema)
        if causes:
            raise errors.invalid(resource.group, resource.kind, obj["metadata"]["name"], causes)
    rules.check_metadata(obj, resource)
    return obj


def _restrict(old: Obj, body: Obj, resource: Resource, subresource: str) -> Obj:
    """`body` with everything taken from `old` that this write may not touch."""
    if subresource == "status":
        new = {key: value for key, value in old.items() if key != "status"}
        status = {"status": body["status"]} if body.get("status") is not None else {}
        return new | status | {"metadata": dict(old["metadata"])}
    fixed = (*_FIXED, *_BOOKKEEPING)
    metadata = {
        key: value for key, value in body["metadata"].items() if key not in fixed and value not in (None, {}, [])
    }
    metadata |= {key: old["metadata"][key] for key in fixed if key in old["metadata"]}
    new = body | {"apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": metadata}
    if resource.has_status:
        new.pop("status", None)
        new |= {"status": old["status"]} if "status" in old else {}
    return new


def _desired(obj: Obj, resource: Resource) -> Obj:
    """What counts for the generation: everything but metadata, and status where that is a subresource."""
    ignored = {"metadata", "status"} if resource.has_status else {"metadata"}
    return {key: value for key, value in obj.items() if key not in ignored}


def _is_finally_deletable(obj: Obj) -> bool:
    metadata = obj["metadata"]
    return (
        bool(metadata.get("deletionTimestamp"))
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and obj["kind"] != "Namespace"
    )
