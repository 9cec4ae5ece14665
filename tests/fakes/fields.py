"""Field ownership: which paths of an object a manager has set. Pure; the arithmetic under server-side apply.

A path is a tuple of `fieldsV1` elements: `f:spec`, `k:{"type":"Ready"}` for an item of a keyed list, `v:"x"` for a
member of a set. Keyed lists, sets and atomic values come from the CRD's schema; for what has none, from a short table
of the lists that Kubernetes' own types merge by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .resources import Obj

Path = tuple[str, ...]

ITEM = object()  # the value of a path that says "this item of a keyed list exists"

_OWNED_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")
_KEYED_LISTS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_SETS = frozenset({"finalizers"})


def list_keys(name: str, schema: Obj | None) -> tuple[str, ...] | None:
    """The key fields of a list that merges item by item; () for a set; None for an atomic list."""
    if schema is None:
        return () if name in _SETS else _KEYED_LISTS.get(name)
    kind = schema.get("x-kubernetes-list-type", "atomic")
    if kind == "map":
        return tuple(schema["x-kubernetes-list-map-keys"])
    return () if kind == "set" else None


def child_schema(schema: Obj | None, name: str) -> Obj | None:
    """The schema of a field: None where there is none, and for metadata, whose types the server itself knows."""
    if schema is None or name == "metadata":
        return None
    extra = schema.get("additionalProperties")
    return schema.get("properties", {}).get(name, extra if isinstance(extra, dict) else {})


def is_atomic_map(schema: Obj | None) -> bool:
    return schema is not None and schema.get("x-kubernetes-map-type") == "atomic"


def item_element(item: Any, keys: tuple[str, ...]) -> str:
    """How an item of a keyed list, or a member of a set, is named in a path."""
    if not keys:
        return "v:" + json.dumps(item, separators=(",", ":"))
    return "k:" + json.dumps({key: item.get(key) for key in keys}, separators=(",", ":"))


def leaves(node: Any, schema: Obj | None, *, path: Path = (), name: str = "") -> Iterator[tuple[Path, Any]]:
    """Every path that can be owned below `node`, with its value."""
    if isinstance(node, dict) and node and not is_atomic_map(schema):
        for key, value in node.items():
            yield from leaves(value, child_schema(schema, key), path=(*path, f"f:{key}"), name=key)
        return
    keys = list_keys(name, schema) if isinstance(node, list) else None
    if keys is None:
        if path:
            yield path, node
        return
    items = child_items(schema)
    for item in node:
        here = (*path, item_element(item, keys))
        yield here, ITEM
        if keys:
            for key, value in item.items():
                yield from leaves(value, child_schema(items, key), path=(*here, f"f:{key}"), name=key)


def child_items(schema: Obj | None) -> Obj | None:
    return None if schema is None else schema.get("items", {})


def ownable(obj: Obj, *, status_only: bool, without_status: bool) -> Obj:
    """The part of an object whose fields have owners, for a write to the main resource or to /status."""
    if status_only:
        return {"status": obj["status"]} if obj.get("status") else {}
    skipped = {"apiVersion", "kind", "metadata"} | ({"status"} if without_status else set())
    part = {key: value for key, value in obj.items() if key not in skipped}
    metadata = {key: obj["metadata"][key] for key in _OWNED_METADATA if obj["metadata"].get(key)}
    return part | ({"metadata": metadata} if metadata else {})


def to_fields_v1(paths: frozenset[Path]) -> Obj:
    """The nested form that `managedFields` carries."""
    root: Obj = {}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if not path[-1].startswith("f:"):
            node["."] = {}
    return root


def from_fields_v1(node: Obj, path: Path = ()) -> frozenset[Path]:
    """The inverse of `to_fields_v1`."""
    if not node:
        return frozenset({path}) if path else frozenset()
    found: set[Path] = set()
    for element, child in node.items():
        found |= {path} if element == "." else from_fields_v1(child, (*path, element))
    return frozenset(found)


def remove_path(node: Any, path: Path, schema: Obj | None, *, name: str = "") -> Any:
    """A copy of `node` without what `path` names; containers that this empties go as well (None at the root)."""
    element, rest = path[0], path[1:]
    if isinstance(node, dict) and element.startswith("f:"):
        key = element[2:]
        if key not in node:
            return node
        child = remove_path(node[key], rest, child_schema(schema, key), name=key) if rest else None
        result = {k: v for k, v in node.items() if k != key}
        if child is not None:
            result = {k: child if k == key else v for k, v in node.items()}
        return result or None
    keys = list_keys(name, schema) if isinstance(node, list) else None
    if keys is None:
        return node
    kept: list[Any] = []
    for item in node:
        if item_element(item, keys) != element:
            kept.append(item)
        elif rest:
            kept.append(_remove_from_item(item, rest, child_items(schema)))
    return kept or None


def _remove_from_item(item: Any, path: Path, schema: Obj | None) -> Any:
    return remove_path(item, path, schema) or item
