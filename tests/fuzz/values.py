"""Values for a node of a CRD's schema, as hypothesis strategies: those that it takes, limits first, and those that lie
beyond. Rules in CEL are not looked at: they are broken by chance, and often."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
Values = st.SearchStrategy[Any]

SHORT = 24
HUGE = (4_097, 70_000, 300_000)
"""Lengths of strings that nobody types."""
AWKWARD = (
    "\u00a0",  # a space to Unicode, and none to ASCII
    "\u3000",
    "\u0085",
    "\u200b",
    "\u202e",
    "\u0301",
    "é",
    "名",
    "🦥",
    "\x00",
    "\n",
    "\t",
    "\x7f",
    " ",
    "..",
    "/",
    "//",
    "%2e",
    "{namespace}",
    "{",
    "$(HOME)",
    "*",
    "'",
    '"',
    "\\",
    "-",
    "_",
)
"""What strings get spliced in."""
OF_OTHER_TYPES: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "text", "1", [], [None], {}, {"a": 1})
NUMBERS = (0, -1, 1, 0.5, -0.0, 5e-324, 1e-7, 1e308, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30)


def valid(schema: Schema) -> Values:
    """What the node's schema takes."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "x-kubernetes-preserve-unknown-fields" in schema:
        return st.sampled_from([value for value in OF_OTHER_TYPES if value is not None])
    if "x-kubernetes-int-or-string" in schema:
        return st.one_of(_integers(schema), _strings(schema))
    return _BY_TYPE[schema["type"]](schema)


def beyond(schema: Schema) -> Values:
    """What it does not take, nearly always."""
    others = st.sampled_from(OF_OTHER_TYPES)
    special = {"integer": _beyond_numbers, "number": _beyond_numbers, "string": _beyond_strings, "array": _beyond_lists}
    kind = schema.get("type")  # a field of two types has none
    if kind not in special:
        return others
    return st.one_of(others, special[kind](schema), special[kind](schema))


def spliced(text: str) -> Values:
    """The text with something awkward in it."""
    parts = st.tuples(st.integers(0, len(text)), st.sampled_from(AWKWARD))
    return parts.map(lambda at: text[: at[0]] + at[1] + text[at[0] :])


# --- what is taken ------------------------------------------------------------------------------------------------


def _integers(schema: Schema) -> Values:
    low, high = int(schema.get("minimum", -(2**63))), int(schema.get("maximum", 2**63 - 1))
    return st.one_of(st.sampled_from((low, high)), st.integers(low, high))


def _numbers(schema: Schema) -> Values:
    low, high = schema.get("minimum", -1e9), schema.get("maximum", 1e9)
    floats = st.floats(
        low,
        high,
        exclude_min=schema.get("exclusiveMinimum", False),
        exclude_max=schema.get("exclusiveMaximum", False),
        allow_nan=False,
    )
    edges = [edge for edge, name in ((low, "exclusiveMinimum"), (high, "exclusiveMaximum")) if not schema.get(name)]
    return st.one_of(st.sampled_from(edges), floats) if edges else floats


def _strings(schema: Schema) -> Values:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 256)
    if "pattern" not in schema:
        texts = st.text(min_size=low, max_size=max(low, min(high, SHORT)))
        return st.one_of(texts, st.just("x" * high), st.sampled_from(("a", "a" * low)))
    pattern = schema["pattern"]
    # RE2's $ ends the text; Python's \Z does.
    alphabets = (st.characters(codec="ascii"), st.characters(codec="utf-8"))
    matches = st.one_of(*(st.from_regex(pattern.removesuffix("$") + r"\Z", alphabet=each) for each in alphabets))
    return st.one_of(matches, matches.map(lambda text: _stretched(text, pattern, high)))


def _stretched(text: str, pattern: str, length: int) -> str:
    """The text, as long as it may be, where the pattern allows that."""
    longer = text + "a" * (length - len(text))
    return longer if re.search(pattern, longer) else text[:length]


def _lists(schema: Schema) -> Values:
    low, high = schema.get("minItems", 0), schema.get("maxItems", 8)
    items = valid(schema["items"])
    return st.one_of(
        st.lists(items, min_size=low, max_size=min(high, low + 3)),
        st.lists(items, min_size=min(high, 4), max_size=high),
    )


def _objects(schema: Schema) -> Values:
    if "additionalProperties" in schema:
        keys = st.one_of(
            st.sampled_from(("team", "example.com/team", "a" * 63, "a" * 64, f"{'a' * 254}/b", "a..b/c")),
            st.text(max_size=SHORT),
        )
        return st.dictionaries(keys, valid(schema["additionalProperties"]), max_size=3)
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    return st.fixed_dictionaries(
        {name: valid(properties[name]) for name in required},
        optional={name: valid(child) for name, child in properties.items() if name not in required},
    )


_BY_TYPE = {
    "integer": _integers,
    "number": _numbers,
    "string": _strings,
    "array": _lists,
    "object": _objects,
    "boolean": lambda _: st.booleans(),
}


# --- what is not --------------------------------------------------------------------------------------------------


def _beyond_numbers(schema: Schema) -> Values:
    edges = [
        schema[name] + step
        for name, step in (("minimum", -1), ("maximum", 1), ("minimum", 0), ("maximum", 0))
        if name in schema
    ]
    return st.sampled_from((*edges, *NUMBERS))


def _beyond_strings(schema: Schema) -> Values:
    most, pattern = schema.get("maxLength", 256), schema.get("pattern")
    long = st.sampled_from(("x" * (most + 1), *("x" * length for length in HUGE)))
    texts = st.one_of(st.text(max_size=SHORT), st.sampled_from(AWKWARD))
    if pattern is None:
        return st.one_of(long, texts)
    return st.one_of(long, texts, _strings(schema).flatmap(spliced))


def _beyond_lists(schema: Schema) -> Values:
    most = schema.get("maxItems", 8)
    items = valid(schema["items"])
    return st.one_of(
        st.just([]),
        items.map(lambda item: [item] * (most + 1)),
        items.map(lambda item: [item, item]),
        st.sampled_from(([None], [[]], [{}], [""])),
    )
