"""Measured values beside what they should reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value and what it should reach."""

    name: str
    value: float
    unit: str
    target: str
    reached: bool


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that should not be larger."""
    return Figure(name=name, value=round(value, 3), unit=unit, target=f"<= {limit:g}", reached=value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that should not be smaller."""
    return Figure(name=name, value=round(value, 3), unit=unit, target=f">= {limit:g}", reached=value >= limit)


def table_of(figures: Iterable[Figure]) -> Table:
    """For people."""
    table = Table("figure", "measured", "target", "")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:g} {figure.unit}", figure.target, "" if figure.reached else "missed")
    return table
