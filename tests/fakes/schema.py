"""Structural schemas of CRDs: pruning, defaulting and validation. Pure. CEL rules are not evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema

from .copying import copied
from .resources import Obj

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_ALWAYS_KNOWN = frozenset({"apiVersion", "kind", "metadata"})


def prune(obj: Obj, schema: Obj) -> tuple[Obj, list[str]]:
    """A copy without the fields that the schema does not know, and the paths of those."""
    unknown: list[str] = []
    kept = {key: value for key, value in obj.items() if key in _ALWAYS_KNOWN}
    rest = {key: value for key, value in obj.items() if key not in _ALWAYS_KNOWN}
    return kept | _prune(rest, schema, path="", unknown=unknown), unknown


def _prune(node: Any, schema: Obj, *, path: str, unknown: list[str]) -> Any:
    if isinstance(node, list):
        items = schema.get("items", {})
        return [_prune(item, items, path=f"{path}[{i}]", unknown=unknown) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
    result: Obj = {}
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if key in properties:
            result[key] = _prune(value, properties[key], path=where, unknown=unknown)
        elif schema.get(_PRESERVE) or extra is True:
            result[key] = copied(value)
        elif isinstance(extra, dict):
            result[key] = _prune(value, extra, path=where, unknown=unknown)
        else:
            unknown.append(where)
    return result


def apply_defaults(node: Any, schema: Obj) -> Any:
    """A copy with the schema's defaults for what is absent, or null where null is not allowed."""
    if isinstance(node, list):
        return [apply_defaults(item, schema.get("items", {})) for item in node]
    if not isinstance(node, dict):
        return node
    properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
    result = dict(node)
    for key, child in properties.items():
        absent = key not in result or (result[key] is None and not child.get("nullable"))
        if absent and "default" in child:
            result[key] = copied(child["default"])
    for key, value in result.items():
        child = properties.get(key, extra)
        if isinstance(child, dict):
            result[key] = apply_defaults(value, child)
    return result


def violations(obj: Obj, schema: Obj) -> list[tuple[str, str]]:
    """Field path and message of everything that the schema refuses, in the order of the paths."""
    # OpenAPI 3.0 is JSON schema draft 4 (boolean exclusiveMinimum) with `nullable` added.
    validator = jsonschema.Draft4Validator(_to_draft4(schema))
    found: list[tuple[str, str]] = []
    for error in validator.iter_errors(obj):
        path = ""
        for part in error.absolute_path:
            path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
        found.append((path or "<root>", f"Invalid value: {error.message}"))
    return sorted((*found, *_duplicates(obj, schema, path="")))


def _duplicates(node: Any, schema: Obj, *, path: str) -> Iterator[tuple[str, str]]:
    """What stands twice in a list that is a set, or a map of its items."""
    if isinstance(node, dict):
        for name, child in schema.get("properties", {}).items():
            if name in node:
                yield from _duplicates(node[name], child, path=f"{path}.{name}".lstrip("."))
    if isinstance(node, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        seen: list[Any] = []
        for index, item in enumerate(node):
            identity = [item.get(key) for key in keys] if keys and isinstance(item, dict) else item
            if identity in seen and schema.get("x-kubernetes-list-type") in ("set", "map"):
                yield f"{path}[{index}]", f"Duplicate value: {identity}"
            seen.append(identity)
            yield from _duplicates(item, schema.get("items", {}), path=f"{path}[{index}]")


def _to_draft4(node: Any) -> Any:
    if isinstance(node, list):
        return [_to_draft4(item) for item in node]
    if not isinstance(node, dict):
        return node
    result: Obj = {}
    for key, value in node.items():
        if key in ("properties", "patternProperties", "definitions"):
            result[key] = {name: _to_draft4(child) for name, child in value.items()}
        elif not key.startswith("x-kubernetes-") and key not in ("nullable", "default", "description", "format"):
            result[key] = _to_draft4(value) if key in _SUBSCHEMAS else value
    if node.get(_INT_OR_STRING):
        result["type"] = ["integer", "string"]
    if node.get("nullable"):
        if "type" in result:
            types = result["type"] if isinstance(result["type"], list) else [result["type"]]
            result["type"] = [*types, "null"]
        if "enum" in result:
            result["enum"] = [*result["enum"], None]
    return result


_SUBSCHEMAS = frozenset({"items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"})
