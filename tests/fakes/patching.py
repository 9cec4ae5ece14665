"""The three non-apply patch types: merge patch, JSON patch, and the harmless part of strategic merge. Pure."""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from .copying import copied
from .errors import ApiError
from .resources import Obj

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copied(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: Obj, operations: Any) -> Obj:
    """RFC 6902. Raises ApiError 422 when a `test` fails or a path is not there, as the real server does."""
    if not isinstance(operations, list):
        raise ApiError(400, "a JSON patch is a list of operations")
    try:
        return jsonpatch.apply_patch(target, operations, in_place=False)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise ApiError(422, message, reason="Invalid") from error


def apply_patch(target: Obj, patch: Any, *, content_type: str, custom: bool) -> Obj:
    """The patched copy of `target`. Raises ApiError 400, 415 or 422."""
    if content_type == JSON:
        return json_patch(target, patch)
    if content_type == MERGE:
        return merge_patch(target, _mapping(patch))
    if content_type == STRATEGIC and not custom:
        if _has_list(_mapping(patch)):
            message = "the fake merges no lists strategically; send a merge patch, a JSON patch or an apply patch"
            raise ApiError(415, message)
        return merge_patch(target, patch)
    raise ApiError(415, f"the body of the request was in an unknown format - {content_type}; accepted: {JSON}, {MERGE}")


def _mapping(patch: Any) -> Obj:
    if not isinstance(patch, dict):
        raise ApiError(400, "the patch must be an object")
    return patch


def _has_list(node: Any) -> bool:
    if isinstance(node, dict):
        return any(key.startswith("$") or _has_list(value) for key, value in node.items())
    return isinstance(node, list)
