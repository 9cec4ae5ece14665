"""The API reference as Markdown, from the OpenAPI schema of a CRD. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_BOUNDS = (
    ("minimum", ">= {}"),
    ("maximum", "<= {}"),
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "items wanted: {} or more"),
    ("maxItems", "at most {} items"),
)
_EXCLUSIVE = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}
_LONG = 100
"""Upper limits on length that say nothing but that there is one."""


def reference(crd: Schema) -> str:
    """A heading for each part of the object, and a table of its fields."""
    kind = crd["spec"]["names"]["kind"]
    version = crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    parts = [f"## {kind}", _sentence(schema["description"])]
    for part in ("spec", "status"):
        if part in schema["properties"]:
            parts += [f"### {kind}.{part}", _sentence(schema["properties"][part].get("description", ""))]
            parts.append("\n".join(_table(schema["properties"][part])))
            parts += [_rules(schema["properties"][part])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(schema: Schema) -> Iterator[str]:
    yield "| field | type | what it is |"
    yield "|---|---|---|"
    for path, field, required in _fields(schema, prefix=""):
        text = " ".join(filter(None, (_sentence(field.get("description", "")), _limits(field))))
        yield f"| `{path}` | {_type(field)}{', required' if required else ''} | {_cell(text)} |"


def _fields(schema: Schema, *, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """Path, schema and whether it is required, of every field below: parents first, and what is required."""
    required = schema.get("required", ())
    for name, field in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required):
        path = f"{prefix}{name}"
        yield path, field, name in required
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _fields(inner, prefix=f"{path}[]." if "items" in field else f"{path}.")


def _type(field: Schema) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{_written(value)}`" for value in field["enum"])
    if "x-kubernetes-int-or-string" in field:
        return "quantity"
    if "x-kubernetes-preserve-unknown-fields" in field:
        return "boolean, number or string"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field["type"] == "object" and "additionalProperties" in field:
        return f"map to {_type(field['additionalProperties'])}"
    return field["type"]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _limits(field: Schema) -> str:
    """The bounds that a writer may run into."""
    told = [
        _bound(name, text, field)
        for name, text in _BOUNDS
        if name in field and not (name == "minLength" and field[name] == 1) and not _is_mere_cap(name, field[name])
    ]
    return f"({', '.join(told)})" if told else ""


def _bound(name: str, text: str, field: Schema) -> str:
    outside = field.get(_EXCLUSIVE.get(name, ""))
    return (text.replace("=", "") if outside else text).format(field[name])


def _is_mere_cap(name: str, value: float) -> bool:
    return name == "maxLength" and value >= _LONG


def _rules(schema: Schema) -> str:
    """What the API server refuses, in its own words."""
    told = sorted({rule["message"] for rule in _validations(schema) if "message" in rule})
    return (
        "\n".join(["The API server also refuses what breaks one of these rules:", "", *(f"- {t}" for t in told)])
        if told
        else ""
    )


def _validations(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("x-kubernetes-validations", ())
    for field in schema.get("properties", {}).values():
        yield from _validations(
            field.get("items", field) | {"x-kubernetes-validations": field.get("x-kubernetes-validations", ())}
        )


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
