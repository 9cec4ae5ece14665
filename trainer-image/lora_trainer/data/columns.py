"""Columns of a row: their values by the names that a format expects, and by the user's in messages. Pure.

`names` are the user's columns, keyed by the name that a format expects (dataset.columns).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN_COLUMNS = 12
Record = Mapping[str, Any]


class RowError(Exception):
    """Why a row cannot be used: the end of a sentence that begins with its file and line."""


def rename(record: Record, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """The record with the user's columns under the names that the format expects."""
    if not columns:
        return dict(record)
    theirs = {name: expected for expected, name in columns.items()}
    # A mapped column wins over one that happens to have the expected name already.
    kept = {name: value for name, value in record.items() if name not in theirs and name not in columns}
    return kept | {expected: record[name] for name, expected in theirs.items() if name in record}


def given(record: Record, name: str) -> Any:
    """The value of a column; None where it is missing, null, a blank text or an empty list."""
    value = record.get(name)
    if isinstance(value, str):
        return value if value.strip() else None
    return None if value == [] else value


def value_of(record: Record, name: str, names: Mapping[str, str]) -> Any:
    """The value of a column. Raises RowError where it is missing or null."""
    if record.get(name) is None:
        state = "is null" if name in record else f"is missing (found {shown_names(record)})"
        raise RowError(f"the column {names.get(name, name)} {state}")
    return record[name]


def text_of(record: Record, name: str, names: Mapping[str, str]) -> str:
    """The text in a column. Raises RowError where it is none."""
    value = value_of(record, name, names)
    if not isinstance(value, str):
        raise RowError(f"the column {names.get(name, name)} is {kind_of(value)} instead of a string")
    return value


def optional_text(record: Record, name: str, names: Mapping[str, str]) -> str | None:
    """The text in a column, None where it is blank or missing. Raises RowError for anything but a text."""
    return None if given(record, name) is None else text_of(record, name, names)


def shown_names(record: Record) -> str:
    """The names of a record's columns, for messages."""
    return ", ".join(sorted(record)[:SHOWN_COLUMNS]) or "none"


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
