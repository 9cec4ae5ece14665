"""Reads JSON that may come from another program than ours: a termination message, the answer of a pod."""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

from pydantic_core import from_json

from lora_trainer.contract.wire import WireModel

M = TypeVar("M", bound=WireModel)

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON keeps exact (RFC 8259, section 6)."""
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that change how a terminal shows what surrounds them: control characters and overrides of direction."""


def read_untrusted(text: str | bytes, model: type[M]) -> M:
    """The JSON as this model, without the fields that it does not know. Characters that nobody sees become U+FFFD.

    Raises ValueError for anything that is not such JSON, and for numbers that other readers of JSON do not keep."""
    return model.model_validate(_clean(from_json(text)), extra="ignore")


def _clean(value: Any) -> Any:
    match value:
        case str():
            return UNSEEN.sub("\ufffd", value)
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {key: _clean(item) for key, item in value.items()}
        case int() if abs(value) > LARGEST:
            raise ValueError(f"a number has more than {LARGEST.bit_length()} bits")
        case float() if not math.isfinite(value):
            raise ValueError("a number is not finite")
    return value
