"""One object, edited, and what the API server says to it. The cases themselves are in run_cases.py and class_cases.py.

An edit is a map of dotted paths to values; None removes the field.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from lora_operator import naming

from tests.builders import class_body, run_body

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CrdCase:
    """One object, and what the API server says to it."""

    name: str
    kind: str = naming.RUN_KIND
    start: dict[str, Any] = field(default_factory=dict)
    """Edits of the smallest object before it is created."""
    change: dict[str, Any] | None = None
    """Edits after creation; None where the creation is what is judged."""
    words: str = ""
    """Part of the message of the refusal; empty where it is accepted."""

    @property
    def accepted(self) -> bool:
        return not self.words

    def before(self) -> Body:
        """The object as it is created."""
        smallest = run_body() if self.kind == naming.RUN_KIND else class_body()
        return edited(smallest, self.start)

    def after(self) -> Body:
        """The object as it is then changed."""
        return edited(self.before(), self.change or {})


def edited(body: Body, edits: dict[str, Any]) -> Body:
    """A copy with these edits."""
    result = copy.deepcopy(body)
    for path, value in edits.items():
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = copy.deepcopy(value)
    return result


def dotted(edits: dict[str, Any]) -> dict[str, Any]:
    """Edits that were written as keywords: spec__lora__r is spec.lora.r."""
    return {path.replace("__", "."): value for path, value in edits.items()}
