"""Values of rows: parsed from JSON, and looked through for what no later stage could write or read again. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 100
"""Levels of lists and objects in a row. Templates, digests and rewards go through a row by recursion."""
MOST_DIGITS = 4300
"""Python neither reads nor writes an integer with more."""


class ValueFlaw(ValueError):
    """What is wrong with a value: the end of a sentence that begins with the place of its row."""


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises JSONDecodeError, or ValueFlaw where it is nested too deeply to be parsed.

    An integer of too many digits becomes infinite, which `check_value` finds and names.
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueFlaw(f"nests lists or objects more than {DEEPEST} levels deep") from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else math.inf


DECODER = json.JSONDecoder(parse_int=_integer)


def check_columns(columns: Mapping[str, Any]) -> None:
    """Raise ValueFlaw that names the first place in a row where a value cannot be used."""
    check_value(columns, "")


def check_value(value: Any, place: str, *, levels: int = DEEPEST) -> None:
    """Raise ValueFlaw that names the first place in a value, itself at `place`, that cannot be used."""
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value, place)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueFlaw(
                f"{_named(place)} is NaN, infinite, or a number of more than {MOST_DIGITS} digits, none of which JSON"
                " can hold"
            )
    elif isinstance(value, dict | list | tuple):
        if not levels:
            raise ValueFlaw(f"{_named(place)} nests lists or objects more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            for key, item in value.items():
                if not key.isascii():
                    _check_text(key, f"{place}.{ascii(key)[1:-1]}" if place else ascii(key)[1:-1])
                check_value(item, f"{place}.{key}" if place else key, levels=levels - 1)
        else:
            for index, item in enumerate(value):
                check_value(item, f"{place}[{index}]", levels=levels - 1)


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueFlaw(
            f"{_named(place)} has half of a surrogate pair ({half}) at character {error.start + 1}"
        ) from None


def _named(place: str) -> str:
    """The place in words: a column of a row has no other sign that it is one."""
    if not place:
        return "the value"
    return place if "[" in place or "." in place else f"the column {place}"
