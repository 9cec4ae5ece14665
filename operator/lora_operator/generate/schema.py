"""Pydantic models as structural OpenAPI v3 schemas, the dialect of CustomResourceDefinitions.

Pydantic writes JSON Schema: references, titles, `anyOf [X, null]` for optional fields, `const`, `exclusiveMinimum` as a
number. A structural schema has none of these (Kubernetes API concepts, "Specifying a structural schema").
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

DROPPED = ("title", "additionalProperties", "$defs", "discriminator")
ANY_VALUE = "x-kubernetes-preserve-unknown-fields"
KUBERNETES_LIST_TYPES = {"x-kubernetes-list-type": "atomic"}


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, with descriptions.

    It has no defaults, because the API server would store them. Stored defaults look like the user's choices, so a
    class could not set others, and a release could not change them. Descriptions state the defaults instead."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(document, document.get("$defs", {}))


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _resolved(node, definitions)
    if node.get(ANY_VALUE):
        # A structural schema has no unions of types: the operator and the trainer check the value.
        return {ANY_VALUE: True}
    node = _without_null(node, definitions)
    schema = {key: value for key, value in node.items() if key not in DROPPED}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in schema:
            schema[bound], schema[exclusive] = schema[exclusive], True
    if schema.get("x-kubernetes-int-or-string"):
        del schema["type"]
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if "properties" in schema:
        schema["properties"] = {name: _structural(child, definitions) for name, child in schema["properties"].items()}
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    if "items" in schema:
        schema["items"] = _structural(schema["items"], definitions)
        schema = KUBERNETES_LIST_TYPES | schema
    default = _written(schema.pop("default", None))
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split()) + (f" (default {default})" if default else "")
    return schema


def _written(default: Any) -> str:
    """A default as text. Empty for a block of fields, which state their own, and for an unset field."""
    if default is None or isinstance(default, dict) or default == []:
        return ""
    if isinstance(default, list):
        return ", ".join(str(item) for item in default)
    return default if isinstance(default, str) else json.dumps(default)


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with its reference replaced by what it refers to; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    target = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return target | {key: value for key, value in node.items() if key != "$ref"}


def _without_null(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """`anyOf [X, null]` as X: in Kubernetes an optional field is absent, never null."""
    if "anyOf" not in node:
        return node
    choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
    if len(choices) != 1:
        raise ValueError(f"a structural schema has no unions of types: {node['anyOf']}")
    return _resolved(choices[0], definitions) | {key: value for key, value in node.items() if key != "anyOf"}
