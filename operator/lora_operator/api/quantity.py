"""Amounts as Kubernetes writes them: 4, 500m, 24Gi."""

from __future__ import annotations

from typing import Annotated

from kubernetes.utils.quantity import parse_quantity
from pydantic import BeforeValidator, Field

PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(min_length=1, max_length=32, pattern=PATTERN, json_schema_extra={"x-kubernetes-int-or-string": True}),
    BeforeValidator(_as_text),
]
"""A whole number, or a text with a unit."""


def in_gib(quantity: str) -> float:
    """The amount in GiB."""
    return float(parse_quantity(quantity) / 2**30)
