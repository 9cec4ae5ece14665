"""Copies of API objects."""

from __future__ import annotations

import marshal
from typing import Any, TypeVar

T = TypeVar("T")


def copied(value: T) -> T:
    """A deep copy of what JSON can hold; raises ValueError on anything else.

    Not copy.deepcopy, which took half of the time of the fault simulation.
    """
    plain: Any = value
    return marshal.loads(marshal.dumps(plain))
