"""CEL rules, which the API server applies before anything is stored.

No field has a default in the API, so a rule asks `has()` of all that may be unset. `given` and `value` write that down.
"""

from __future__ import annotations

from typing import Any

STORED = "oldSelf.hasValue()"
"""Whether the object is stored already, in rules with optionalOldSelf."""


def given(path: str) -> str:
    """Whether a field below self is set, and everything above it."""
    names = path.split(".")
    return " && ".join(f"has(self.{'.'.join(names[:count])})" for count in range(1, len(names) + 1))


def value(path: str, default: object) -> str:
    """A field below self, or `default` where it is unset."""
    literal = f"'{default}'" if isinstance(default, str) else str(default).lower()
    return f"({given(path)} ? self.{path} : {literal})"


def rule(expression: str, message: str, *, field: str | None = None) -> dict[str, str]:
    """One CEL rule of the CRD: `expression` must hold, else the API server refuses with `message`."""
    entry = {"rule": expression, "message": message}
    return entry | {"fieldPath": f".{field}"} if field else entry


def on_create(entry: dict[str, str]) -> dict[str, Any]:
    """The rule for new objects only. Users cannot change the fields of a stored object, so a newer rule must not keep
    them from suspending it."""
    return entry | {"rule": f"{STORED} || ({entry['rule']})", "optionalOldSelf": True}


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """A schema extra that carries CEL rules."""
    return {"x-kubernetes-validations": list(entries)}
