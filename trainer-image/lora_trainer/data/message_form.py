"""The form in which a chat template reads messages: most read contents as strings and arguments of calls as objects,
those of models that see read contents as parts, and some read arguments as JSON text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class MessageForm:
    """How messages are handed to a template."""

    content_as_parts: bool = False
    arguments_as_text: bool = False

    def of(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message in this form."""
        changed: dict[str, Any] = {}
        if self.content_as_parts:
            changed["content"] = [{"type": "text", "text": message["content"]}]
        if self.arguments_as_text and (calls := message.get("tool_calls")):
            changed["tool_calls"] = [_with_text(call) for call in calls]
        return {**message, **changed} if changed else message


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    written = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return {**call, "function": written} if "function" in call else written
