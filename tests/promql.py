"""Which metrics and labels a PromQL expression names: enough to tell that they exist, no check of its grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass

STRING = re.compile(r'"[^"]*"')
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^{}]*)\}")
MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^()]*)\)")
RANGE = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()")
OPERATORS = frozenset({"and", "or", "unless", "bool", "offset", "group_left", "group_right"})


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A metric, and the values that its labels are compared with."""

    metric: str
    matchers: tuple[tuple[str, str], ...]


def selectors(expression: str) -> tuple[Selector, ...]:
    """Every metric that the expression names."""
    with_matchers = [
        Selector(metric=name, matchers=tuple(MATCHER.findall(body))) for name, body in SELECTOR.findall(expression)
    ]
    rest = expression
    for pattern in (SELECTOR, STRING, GROUPING, RANGE):
        rest = pattern.sub(" ", rest)
    bare = [Selector(metric=name, matchers=()) for name in NAME.findall(rest) if name not in OPERATORS]
    return (*with_matchers, *bare)


def groupings(expression: str) -> frozenset[str]:
    """Every label that the expression groups or joins by."""
    found = (name.strip() for body in GROUPING.findall(expression) for name in body.split(","))
    return frozenset(name for name in found if name)
