"""Which metrics and labels a PromQL expression names, read by Prometheus' grammar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

VARIABLES = {"$__rate_interval": "5m", "$__range": "6h"}
"""Grafana's own, which stand where a duration must."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A metric, and the values that its labels are compared with."""

    metric: str
    matchers: tuple[tuple[str, str], ...]


def selectors(expression: str) -> tuple[Selector, ...]:
    """Every metric that the expression names. Raises ValueError where it is no PromQL."""
    found = (node for node in _nodes(expression) if isinstance(node, promql_parser.VectorSelector))
    return tuple(
        Selector(metric=node.name or "", matchers=tuple((each.name, each.value) for each in node.matchers.matchers))
        for node in found
    )


def groupings(expression: str) -> frozenset[str]:
    """Every label that the expression groups by. Raises ValueError where it is no PromQL."""
    aggregations = (node for node in _nodes(expression) if isinstance(node, promql_parser.AggregateExpr))
    return frozenset(label for node in aggregations if node.modifier is not None for label in node.modifier.labels)


def _nodes(expression: str) -> Iterator[Any]:
    for name, duration in VARIABLES.items():
        expression = expression.replace(name, duration)
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), pre_visit=nodes.append)
    return iter(nodes)
