"""Removes the values of a pod's credentials from texts that leave the pod."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from lora_trainer.contract.credentials import SECRET_VARIABLES

SHORTEST_PIECE = 12
"""Shorter values, and shorter lines of a key, are not looked for in other encodings or alone: they would be found by
chance."""
STARS = "***"

_taken: set[str] = set()


def take(name: str) -> str:
    """The value of a secret environment variable, which other processes do not inherit any more."""
    value = os.environ.pop(name, "")
    _taken.add(value.strip())
    return value


def redact(text: str) -> str:
    """The text without the values of secret environment variables, however they are written: as they are, as JSON, in
    a URL, in base64 or in hex; and without the single lines of keys."""
    values = {os.environ.get(name, "").strip() for name in SECRET_VARIABLES} | _taken
    for written in _forms(frozenset(values - {""})):
        text = text.replace(written, STARS)
    return text


def redacted(value: Any) -> Any:
    """A JSON value whose texts are all redacted."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {key: redacted(inner) for key, inner in value.items()}
        case list() | tuple():
            return [redacted(inner) for inner in value]
        case _:
            return value


@functools.lru_cache(maxsize=8)
def _forms(values: frozenset[str]) -> tuple[str, ...]:
    """What the values may look like, the longest first: a key before its lines."""
    return tuple(sorted({form for value in values for form in _forms_of(value)}, key=len, reverse=True))


def _forms_of(value: str) -> Iterator[str]:
    for piece in {value, *(line.strip() for line in re.split(r"\\n|\n", value) if not line.startswith("-----"))}:
        if piece != value and len(piece) < SHORTEST_PIECE:
            continue
        yield piece
        yield json.dumps(piece, ensure_ascii=False)[1:-1]
        if len(piece) >= SHORTEST_PIECE:
            plain = piece.encode()
            yield from (quote(piece, safe=""), quote_plus(piece), plain.hex(), plain.hex().upper())
            # In base64 a text looks different at each of three offsets; its ends depend on what is beside it.
            for offset in range(3):
                text = base64.b64encode(b"x" * offset + plain).decode()[4 if offset else 0 : -4]
                yield from (text, text.translate(str.maketrans("+/", "-_")))
