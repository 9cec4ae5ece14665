"""Amounts as Kubernetes writes them: 4, 500m, 24Gi."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
PATTERN = rf"^[0-9]+(\.[0-9]+)?({'|'.join(filter(None, _UNITS))})?$"


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=PATTERN,
        json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0},
    ),
    BeforeValidator(_as_text),
]
"""A whole number, or a string with a unit."""


def in_gib(quantity: str) -> float:
    """The amount in GiB."""
    unit = quantity.lstrip("0123456789.")
    return float(quantity.removesuffix(unit)) * _UNITS[unit] / 2**30
