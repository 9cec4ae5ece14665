"""How rows lie in the values of JSON files: which values are rows, and which columns a row has. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_trainer.contract.spec.dataset import COLUMN_ROLES
from lora_trainer.data.values import ValueFlaw


def rows_of(value: Any) -> list[Any]:
    """The rows of a file that is one JSON value: those of a list, or the value itself.

    {"data": [...]} is how some exports wrap their rows, and {"prompt": {"0": ..., "1": ...}} how pandas writes columns.
    """
    if isinstance(value, list):
        return [value] if _is_conversation(value) else value
    if isinstance(value, dict):
        if (wrapped := _wrapped(value)) is not None:
            return wrapped
        if _is_table(value):
            numbers = next(iter(value.values()))
            return [{name: column[number] for name, column in value.items()} for number in numbers]
    return [value]


def columns_of(row: Any) -> dict[str, Any]:
    """The columns of one row; a list of messages is a conversation. Raises ValueFlaw."""
    if isinstance(row, dict):
        if _is_table(row):
            raise ValueFlaw(
                "a table column by column instead of one row: write it with to_json(orient='records', lines=True)"
            )
        return row
    if isinstance(row, list) and _is_conversation(row):
        return {"conversations" if "from" in row[0] else "messages": row}
    if isinstance(row, list) and row and all(isinstance(item, dict | list) for item in row):
        raise ValueFlaw(
            "a list of rows instead of one row: write each row on a line of its own, or name a file that is one array"
            " .json"
        )
    raise ValueFlaw("not a JSON object or a list of messages")


def _wrapped(value: Mapping[str, Any]) -> list[Any] | None:
    """The rows below the only key of an object; None where the object is a row itself."""
    if len(value) != 1:
        return None
    ((name, rows),) = value.items()
    if name in COLUMN_ROLES or not isinstance(rows, list):
        return None
    # What is neither is a row that cannot be used, and makes no other thing of those around it.
    whole = [row for row in rows if isinstance(row, dict | list)]
    return rows if whole and not _is_conversation(whole) else None


def _is_table(value: Mapping[str, Any]) -> bool:
    """Whether it is a column by column table whose rows are numbered."""
    columns = list(value.values())
    if not columns or not all(isinstance(column, dict) for column in columns):
        return False
    numbers = list(columns[0])
    return bool(numbers) and all(map(str.isdecimal, numbers)) and all(list(column) == numbers for column in columns)


def _is_conversation(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and _is_message(item) for item in items)


def _is_message(item: Mapping[str, Any]) -> bool:
    return ("role" in item and ("content" in item or "tool_calls" in item)) or {"from", "value"} <= item.keys()
