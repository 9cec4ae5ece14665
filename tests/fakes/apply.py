"""Server-side apply and `managedFields`. Pure.

Implements what an operator relies on: create or merge, lists merged by key, fields that a manager drops are removed
unless another manager owns them too, conflicts without `force`. Not a port of structured-merge-diff: no versions, no
migration from client-side apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import fields
from .errors import ApiError
from .fields import Path
from .resources import Obj, Resource

_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Manager:
    """Who writes, how (`Apply` or `Update`) and to which subresource: the identity of one `managedFields` entry."""

    name: str
    operation: str
    subresource: str = ""


Owners = dict[Manager, frozenset[Path]]


def read_owners(obj: Obj) -> Owners:
    return {_manager(entry): fields.from_fields_v1(entry["fieldsV1"]) for entry in _entries(obj)}


def write_owners(owners: Owners, *, api_version: str, time: str, previous: Obj | None) -> list[Obj]:
    """`managedFields`; an entry whose fields did not change keeps its time."""
    before = {_manager(entry): entry for entry in _entries(previous)} if previous else {}
    entries: list[Obj] = []
    for manager, paths in owners.items():
        if not paths:
            continue
        entry: Obj = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.to_fields_v1(paths),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        if manager in before and before[manager]["fieldsV1"] == entry["fieldsV1"]:
            entry["time"] = before[manager]["time"]
        entries.append(entry)
    return entries


def _entries(obj: Obj) -> list[Obj]:
    return obj["metadata"].get("managedFields") or []


def _manager(entry: Obj) -> Manager:
    return Manager(name=entry["manager"], operation=entry["operation"], subresource=entry.get("subresource", ""))


def _owned_part(obj: Obj, resource: Resource, subresource: str) -> Obj:
    return fields.ownable(obj, status_only=subresource == "status", without_status=resource.has_status)


def apply(*, live: Obj, applied: Obj, manager: Manager, force: bool, resource: Resource) -> tuple[Obj, Owners]:
    """The merged object and the owners after it.

    `live` may be an object that does not exist yet (metadata with the name only). Raises ApiError 409 naming the
    fields and their managers when another manager holds a different value and `force` is false.
    """
    wanted = _owned_part(applied, resource, manager.subresource)
    wanted_leaves = dict(fields.leaves(wanted, resource.schema))
    owners = read_owners(live)
    taken = _conflicts(live, wanted_leaves, owners, manager, resource)
    if taken and not force:
        raise _conflict(taken)
    for other, paths in taken.items():
        owners[other] -= paths
    merged = live | _merge(live, wanted, resource.schema)
    others = frozenset[Path]().union(*(paths for other, paths in owners.items() if other != manager))
    # Shortest first: a dropped item of a keyed list must go as a whole, before its key field does.
    for path in sorted(owners.get(manager, frozenset()) - wanted_leaves.keys() - others, key=len):
        if not any(other[: len(path)] == path for other in (*others, *wanted_leaves)):
            merged = fields.remove_path(merged, path, resource.schema)
    owners[manager] = frozenset(wanted_leaves)
    return merged, owners


def _conflicts(
    live: Obj, wanted: dict[Path, Any], owners: Owners, manager: Manager, resource: Resource
) -> dict[Manager, frozenset[Path]]:
    current = dict(fields.leaves(_owned_part(live, resource, manager.subresource), resource.schema))
    changed = {path for path, value in wanted.items() if current.get(path, _MISSING) != value}
    found = {other: frozenset(paths & changed) for other, paths in owners.items() if other != manager}
    return {other: paths for other, paths in found.items() if paths}


def _conflict(taken: dict[Manager, frozenset[Path]]) -> ApiError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{other.name}" using {other.operation}',
            "field": "".join(f".{element[2:]}" if element.startswith("f:") else f"[{element[2:]}]" for element in path),
        }
        for other, paths in taken.items()
        for path in sorted(paths)
    ]
    text = "; ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    message = f"Apply failed with {len(causes)} conflict{'s' if len(causes) > 1 else ''}: {text}"
    return ApiError(409, message, details={"causes": causes})


def _merge(live: Any, wanted: Any, schema: Obj | None, *, name: str = "") -> Any:
    if isinstance(wanted, dict) and isinstance(live, dict) and not fields.is_atomic_map(schema):
        return live | {
            key: _merge(live.get(key), value, fields.child_schema(schema, key), name=key)
            for key, value in wanted.items()
        }
    keys = fields.list_keys(name, schema) if isinstance(wanted, list) else None
    if keys is None or not isinstance(live, list):
        return wanted
    by_element = {fields.item_element(item, keys): item for item in live}
    items = fields.child_items(schema)
    for item in wanted:
        element = fields.item_element(item, keys)
        by_element[element] = _merge(by_element.get(element), item, items)
    return list(by_element.values())


def after_update(*, old: Obj | None, new: Obj, manager: Manager, resource: Resource) -> Owners:
    """The owners after a write that is not an apply: the writer owns what it changed, and vanished fields have none."""
    before = dict(fields.leaves(_owned_part(old, resource, manager.subresource), resource.schema)) if old else {}
    after = dict(fields.leaves(_owned_part(new, resource, manager.subresource), resource.schema))
    changed = frozenset(path for path, value in after.items() if before.get(path, _MISSING) != value)
    gone = before.keys() - after.keys()
    owners = read_owners(old) if old else {}
    owners = {other: paths - gone - (changed if other != manager else frozenset()) for other, paths in owners.items()}
    if changed:
        owners[manager] = owners.get(manager, frozenset()) | changed
    return owners
