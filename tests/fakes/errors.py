"""Errors in the words of the Kubernetes API: each becomes a `Status` body with the code and reason of a real server."""

from __future__ import annotations

from typing import Any

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """A request that the API server refuses."""

    def __init__(
        self, code: int, message: str, *, reason: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or _REASONS.get(code, "Unknown")
        self.details = details or {}

    def body(self) -> dict[str, Any]:
        """The `Status` object that a client receives."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def _details(group: str, plural: str, name: str) -> dict[str, Any]:
    return {"name": name, "kind": plural} | ({"group": group} if group else {})


def _qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiError:
    return ApiError(404, f'{_qualified(group, plural)} "{name}" not found', details=_details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{_qualified(group, plural)} "{name}" already exists'
    return ApiError(409, message, reason="AlreadyExists", details=_details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str | None = None) -> ApiError:
    """A lost race: `why` defaults to the sentence for a stale resourceVersion."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {_qualified(group, plural)} "{name}": {why}'
    return ApiError(409, message, details=_details(group, plural, name))


def invalid(group: str, kind: str, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """`causes` are pairs of field path and message."""
    text = "; ".join(f"{field}: {message}" for field, message in causes)
    details = {
        "name": name,
        "kind": kind,
        "causes": [{"reason": "FieldValueInvalid", "field": field, "message": message} for field, message in causes],
    }
    if group:
        details["group"] = group
    return ApiError(422, f'{_qualified(group, kind)} "{name}" is invalid: {text}', details=details)


def expired(revision: int, oldest: int) -> ApiError:
    return ApiError(410, f"too old resource version: {revision} ({oldest})", reason="Expired")
