"""Changes of an object at random places of its schema: fields dropped, nulls, values at the limits and beyond, wrong
types, unknown fields, awkward and huge strings, and values that contradict each other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from lora_operator import naming
from lora_operator.generate.crds import class_crd, run_crd

from tests.crd_case import Body, edited
from tests.crd_cases import CASES
from tests.fuzz.values import Schema, Values, beyond, spliced, valid
from tests.policy_cases import CASES as POLICY_CASES

Draw = Callable[[Values], Any]

MOST_CHANGES = 3
Ways = tuple[str, ...]
HARSH: Ways = (*["valid"] * 6, *["beyond"] * 3, "drop", "null", "unknown", "splice")
"""How one field of an object is changed, of which little will be accepted."""
MILD: Ways = (*["valid"] * 8, "drop", "splice")
"""The same of one that the API server may well take, so that the operator has to do with it."""
_TEXT: Schema = {"type": "string", "maxLength": 63}
METADATA: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 48, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "namespace": _TEXT,
        "generateName": _TEXT,
        "labels": {"type": "object", "additionalProperties": _TEXT},
        "annotations": {"type": "object", "additionalProperties": _TEXT},
        "finalizers": {"type": "array", "items": _TEXT},
        "uid": _TEXT,
        "generation": {"type": "integer"},
        "deletionTimestamp": _TEXT,
    },
}
"""Of metadata a CRD's schema says nothing; what is odd in it is the API server's own to refuse."""
MUTABLE = ("suspend", "retryLimit", "maxRuntimeSeconds", "jobRetentionSeconds")
"""Fields of a run's spec that may change."""


def schema_of(kind: str) -> Schema:
    """The schema of a kind, with one for metadata."""
    crd = run_crd() if kind == naming.RUN_KIND else class_crd()
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema | {"properties": schema["properties"] | {"metadata": METADATA}}


SCHEMAS = {kind: schema_of(kind) for kind in (naming.RUN_KIND, naming.CLASS_KIND)}
CONFLICTS: dict[str, list[Body]] = {
    naming.RUN_KIND: [
        *(case.start for case in CASES if case.kind == naming.RUN_KIND),
        *({f"spec.{path}": value for path, value in case.edits.items()} for case in POLICY_CASES),
    ],
    naming.CLASS_KIND: [case.start for case in CASES if case.kind == naming.CLASS_KIND],
}
"""Edits that the tests of the rules make, which here meet each other."""


@st.composite
def mutated(draw: Draw, body: Body) -> Body:
    """The object with some changes."""
    kind, ways = body["kind"], draw(st.sampled_from((HARSH, MILD)))
    result = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, MOST_CHANGES))):
        if draw(st.integers(0, 9)) == 0:
            result = _conflicting(draw, result, kind)
        else:
            _change(draw, result, _root(draw, kind), ways)
    return result


@st.composite
def edit(draw: Draw, body: Body) -> Body:
    """The object with changes of which some are allowed later: of a run, of what may change of it."""
    if body["kind"] == naming.CLASS_KIND or draw(st.booleans()):
        return draw(mutated(body))
    result = copy.deepcopy(body)
    fields = SCHEMAS[naming.RUN_KIND]["properties"]["spec"]["properties"]
    for name in draw(st.lists(st.sampled_from(MUTABLE), min_size=1, max_size=3, unique=True)):
        _apply(draw, result["spec"], name, fields[name], HARSH)
    return result


def _conflicting(draw: Draw, body: Body, kind: str) -> Body:
    try:
        return edited(body, draw(st.sampled_from(CONFLICTS[kind])))
    except (AttributeError, TypeError):  # an earlier change left no object where this one goes
        return body


def _root(draw: Draw, kind: str) -> Schema:
    """The schema, with spec far more often than the rest."""
    schema = SCHEMAS[kind]
    others = [name for name in schema["properties"] if name != "spec"]
    chosen = "spec" if draw(st.integers(0, 9)) else draw(st.sampled_from(others))
    return {"type": "object", "properties": {chosen: schema["properties"][chosen]}}


def _change(draw: Draw, node: Any, schema: Schema, ways: Ways) -> None:
    """Go down at random and change something there."""
    while isinstance(node, dict) and "properties" in schema:
        name = draw(st.sampled_from(list(schema["properties"])))
        child = schema["properties"][name]
        inner = _way_down(draw, node, name, child)
        if inner is None:
            _apply(draw, node, name, child, ways)
            return
        node, schema = inner


def _way_down(draw: Draw, node: Body, name: str, schema: Schema) -> tuple[Any, Schema] | None:
    """The object below, in a list too; None where this is the place. What is not there is made now and then."""
    there = node.get(name)
    if isinstance(there, list) and there and "properties" in schema.get("items", {}) and draw(st.booleans()):
        return draw(st.sampled_from(there)), schema["items"]
    if "properties" not in schema or draw(st.integers(0, 11)) == 0:
        return None
    if name not in node and draw(st.booleans()):
        return None
    inner = node.setdefault(name, {})
    return (inner, schema) if isinstance(inner, dict) else None


def _apply(draw: Draw, node: Body, name: str, schema: Schema, ways: Ways) -> None:
    """Change this one field."""
    how = draw(st.sampled_from(ways))
    if how == "drop":
        node.pop(name, None)
    elif how == "unknown":
        node[draw(st.sampled_from((f"{name}s", name.capitalize(), "x", "", "metadata")))] = draw(beyond(schema))
    elif how == "splice" and isinstance(node.get(name), str):
        node[name] = draw(spliced(node[name]))
    elif how == "null":
        node[name] = None
    else:
        node[name] = draw(valid(schema) if how == "valid" else beyond(schema))
