"""Jinja as chat templates are written for it. Follows what transformers does: its own code would import torch.

One thing differs. The day is fixed, because templates that write today's date would give the same dataset another
digest tomorrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_DAY = date(2024, 7, 26)
"""The day that Llama's own templates fall back to."""

Span = tuple[int, int]
"""[start, end) in a text."""


class Written(NamedTuple):
    """What a template made of its variables."""

    text: str
    generated: tuple[Span, ...]
    """What its `{% generation %}` blocks wrote: the model's own words. Nothing where it has none."""


class Template:
    """A compiled template. Raises jinja2.TemplateSyntaxError. Safe to use from one thread."""

    def __init__(self, source: str) -> None:
        environment = _environment()
        self._template = environment.from_string(source)
        tree = environment.parse(source)
        self.variables = frozenset(meta.find_undeclared_variables(tree))
        """Names that it may look up among its variables: also those of its own that not every branch sets."""
        self.settings = self.variables - (_set_in(tree) - _tried_in(tree))
        """Those of them that are meant to be given: it never sets them, or only where they are not given."""
        self._generation: Any = environment.extensions[_Generation.identifier]

    def write(self, **variables: Any) -> Written:
        """Raises what the template raises."""
        generation = self._generation
        if not generation.used:
            return Written(text=self._template.render(**variables), generated=())
        generation.begin()
        pieces = []
        for piece in self._template.generate(**variables):
            pieces.append(piece)
            generation.position += len(piece)
        text = "".join(pieces)
        blocks = [((start, start + len(block)), block) for start, block in generation.blocks]
        # A block inside a macro is written elsewhere than it was rendered: then the template does not say its place.
        known = all(text[start:end] == block for (start, end), block in blocks)
        return Written(text=text, generated=tuple(span for span, _ in blocks) if known else ())


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` renders its body, and notes where it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own interface

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.used = False
        self.begin()

    def begin(self) -> None:
        """Forget the blocks of the rendering before."""
        self.position = 0
        self.blocks: list[tuple[int, str]] = []

    def parse(self, parser: Parser) -> nodes.Node:
        self.used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("note"), [], [], body).set_lineno(line)

    def note(self, caller: Callable[[], str]) -> str:
        block = caller()
        self.blocks.append((self.position, block))
        return block


def _set_in(tree: nodes.Template) -> set[str]:
    """Names that the template sets."""
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}


def _tried_in(tree: nodes.Template) -> set[str]:
    """Names of which the template asks whether they are given."""
    tests = [test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    filters = [each.node for each in tree.find_all(nodes.Filter) if each.name in ("default", "d")]
    return {node.name for node in [*tests, *filters] if isinstance(node, nodes.Name)}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = TEMPLATE_DAY.strftime
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
