"""The garbage collector and the namespace controller, as one function that brings a store to rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .apply import Manager
from .errors import ApiError
from .resources import Obj, Resource
from .store import Store

_MANAGER = Manager(name="kube-controller-manager", operation="Update")


def collect(store: Store) -> None:
    """Delete what has lost its owners, finish foreground and orphan deletions, empty terminating namespaces."""
    before = -1
    while before != store.revision:
        before = store.revision
        for resource, obj in _everything(store):
            if store.find(resource, obj["metadata"].get("namespace"), obj["metadata"]["name"]) is obj:
                _step(store, resource, obj)
        _empty_namespaces(store)


def _everything(store: Store) -> Iterator[tuple[Resource, Obj]]:
    for resource in store.resources:
        for obj in store.list_objects(resource):
            yield resource, obj


def _step(store: Store, resource: Resource, obj: Obj) -> None:
    finalizers = obj["metadata"].get("finalizers") or ()
    if obj["metadata"].get("deletionTimestamp"):
        if "foregroundDeletion" in finalizers:
            _delete_foreground(store, resource, obj)
        elif "orphan" in finalizers:
            _orphan_dependents(store, resource, obj)
    elif obj["metadata"].get("ownerReferences"):
        _delete_if_ownerless(store, resource, obj)


def _dependents(store: Store, owner: Obj) -> list[tuple[Resource, Obj, Obj]]:
    """Resource, object and the reference to `owner` in it."""
    return [
        (resource, obj, reference)
        for resource, obj in _everything(store)
        for reference in obj["metadata"].get("ownerReferences") or ()
        if reference["uid"] == owner["metadata"]["uid"]
    ]


def _delete_foreground(store: Store, resource: Resource, owner: Obj) -> None:
    dependents = _dependents(store, owner)
    for child_resource, child, _ in dependents:
        if not child["metadata"].get("deletionTimestamp"):
            _delete(store, child_resource, child, "Foreground" if _dependents(store, child) else "Background")
    if not any(reference.get("blockOwnerDeletion") for _, _, reference in _dependents(store, owner)):
        _drop_finalizer(store, resource, owner, "foregroundDeletion")


def _orphan_dependents(store: Store, resource: Resource, owner: Obj) -> None:
    for child_resource, child, orphaned in _dependents(store, owner):
        references = [reference for reference in child["metadata"]["ownerReferences"] if reference is not orphaned]
        _write_metadata(store, child_resource, child, {"ownerReferences": references})
    _drop_finalizer(store, resource, owner, "orphan")


def _delete_if_ownerless(store: Store, resource: Resource, obj: Obj) -> None:
    references = obj["metadata"]["ownerReferences"]
    solid = [reference for reference in references if _owner_exists(store, obj, reference)]
    if not solid:
        _delete(store, resource, obj, "Background")
    elif len(solid) < len(references):
        _write_metadata(store, resource, obj, {"ownerReferences": solid})


def _owner_exists(store: Store, obj: Obj, reference: Obj) -> bool:
    """An owner counts when it is in the object's own namespace, or in none, and has the uid of the reference."""
    resource = next(
        (r for r in store.resources if (r.api_version, r.kind) == (reference["apiVersion"], reference["kind"])), None
    )
    if resource is None:
        return False
    namespace = obj["metadata"].get("namespace") if resource.namespaced else None
    owner = store.find(resource, namespace, reference["name"])
    return owner is not None and owner["metadata"]["uid"] == reference["uid"]


def _empty_namespaces(store: Store) -> None:
    for namespace in store.list_objects(store.resources.find("namespaces")):
        if not namespace["metadata"].get("deletionTimestamp"):
            continue
        name = namespace["metadata"]["name"]
        content = [(resource, obj) for resource, obj in _everything(store) if obj["metadata"].get("namespace") == name]
        for resource, obj in content:
            if not obj["metadata"].get("deletionTimestamp"):
                _delete(store, resource, obj, "Background")
        if not content:
            store.finalize_namespace(name)


def _delete(store: Store, resource: Resource, obj: Obj, propagation: str) -> None:
    metadata = obj["metadata"]
    with contextlib.suppress(ApiError):  # gone, or replaced by a namesake, in the meantime
        namespace, name, uid = metadata.get("namespace"), metadata["name"], metadata["uid"]
        store.delete(resource, namespace, name, propagation=propagation, uid=uid)


def _drop_finalizer(store: Store, resource: Resource, obj: Obj, finalizer: str) -> None:
    remaining = [name for name in obj["metadata"]["finalizers"] if name != finalizer]
    _write_metadata(store, resource, obj, {"finalizers": remaining})


def _write_metadata(store: Store, resource: Resource, obj: Obj, changed: Obj) -> None:
    metadata = {key: value for key, value in (obj["metadata"] | changed).items() if key != "resourceVersion"}
    store.update(resource, obj | {"metadata": metadata}, manager=_MANAGER)
