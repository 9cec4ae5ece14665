"""Tools and calls of tools in a row, in the one form that chat templates read: lists of objects, arguments parsed.

Many datasets write them as JSON strings. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError
from typing import Any

from lora_trainer.data.values import ValueFlaw, check_value, parse_json


class ToolError(ValueError):
    """What is wrong with them: the end of a sentence that begins with their place."""


def tools_of(value: Any) -> tuple[Any, ...]:
    """The tools that a conversation may use. Raises ToolError."""
    tools = _parsed(value) if isinstance(value, str) else value
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ToolError("is not a list of tools")
    return tuple(tools)


def tool_calls_of(value: Any) -> list[dict[str, Any]]:
    """The calls of one message: {function: {name, arguments}} or {name, arguments} each. Raises ToolError."""
    calls = _parsed(value) if isinstance(value, str) else value
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise ToolError("is not a list of calls")
    return [_call(call) for call in calls]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _named(function)}
    return _named(call)


def _named(function: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(function.get("name"), str):
        raise ToolError("has a call without a function name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments) if arguments.strip() else {}
    if not isinstance(arguments, Mapping | None):
        raise ToolError(f"calls {function['name']} with arguments that are not an object")
    return {**function, "arguments": arguments or {}}


def _parsed(text: str) -> Any:
    try:
        value = parse_json(text)
        check_value(value, "")
    except JSONDecodeError as error:
        raise ToolError(f"is not JSON ({error.msg} at column {error.colno})") from None
    except ValueFlaw as flaw:
        raise ToolError(f"is JSON of which {flaw}") from None
    return value
