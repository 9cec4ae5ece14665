"""The docstrings that stand below the members of an enum: Python keeps no such thing at run time, the source does."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is said of one member."""

    meaning: str
    cause: str | None = None
    remedy: str | None = None


def member_texts(kind: type[Enum]) -> dict[str, Text]:
    """By the member's name. Raises AssertionError unless every member has a text."""
    module = ast.parse(Path(inspect.getfile(kind)).read_text())
    source = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    texts = {
        target.id: _text(ast.literal_eval(below.value))
        for member, below in pairwise(source.body)
        if isinstance(member, ast.Assign) and isinstance(below, ast.Expr)
        for target in member.targets
        if isinstance(target, ast.Name)
    }
    assert list(texts) == [member.name for member in kind]
    return texts


def _text(docstring: str) -> Text:
    """`Meaning.`, or that and, after an empty line, `Cause: ...` and `Remedy: ...`."""
    meaning, _, rest = " ".join(docstring.split()).partition(" Cause: ")
    cause, _, remedy = rest.partition(" Remedy: ")
    return Text(meaning=meaning, cause=cause or None, remedy=remedy or None)
