"""Label and field selectors as the API server reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .errors import ApiError
from .resources import Obj

_SET_BASED = re.compile(r"^(?P<key>[^\s!=(),]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^\s!=(),]+)\s*(?P<op>==|!=|=)\s*(?P<value>[^\s!=(),]*)$")
_EXISTS = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s!=(),]+)$")

Predicate = Callable[[dict[str, str]], bool]


def _split(selector: str) -> list[str]:
    """Split at the commas that are not inside parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _requirement(text: str) -> Predicate:
    if match := _SET_BASED.match(text):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUALITY.match(text):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _EXISTS.match(text):
        key, absent = match["key"], bool(match["absent"])
        return lambda labels: (key not in labels) if absent else (key in labels)
    raise ApiError(400, f"unable to parse requirement: {text!r}")


def label_predicate(selector: str) -> Predicate:
    """Raises ApiError 400 for what is not a selector; the empty selector matches everything."""
    requirements = [_requirement(part) for part in _split(selector)]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def _lookup(obj: Obj, path: str) -> str:
    node: Any = obj
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "" if node is None else str(node)


def field_predicate(selector: str) -> Callable[[Obj], bool]:
    """Equality on field paths. More lenient than the real server, which knows a fixed set of paths per resource."""
    checks: list[tuple[str, str, str]] = []
    for part in _split(selector):
        match = _EQUALITY.match(part)
        if match is None:
            raise ApiError(400, f"invalid field selector: {part!r}")
        checks.append((match["key"], match["op"], match["value"]))
    return lambda obj: all((_lookup(obj, path) == value) == (op != "!=") for path, op, value in checks)


def object_predicate(*, labels: str = "", fields: str = "") -> Callable[[Obj], bool]:
    """Both selectors as one predicate over objects."""
    by_label, by_field = label_predicate(labels), field_predicate(fields)
    return lambda obj: by_label(obj["metadata"].get("labels") or {}) and by_field(obj)
