"""CEL rules, which the API server applies before anything is stored."""

from __future__ import annotations

from typing import Any


def rule(expression: str, message: str, *, field: str | None = None) -> dict[str, str]:
    """One CEL rule of the CRD: `expression` must hold, else the API server refuses with `message`."""
    entry = {"rule": expression, "message": message}
    return entry | {"fieldPath": f".{field}"} if field else entry


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """A schema extra that carries CEL rules."""
    return {"x-kubernetes-validations": list(entries)}
