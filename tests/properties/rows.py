"""On how many rows the tests of a property are tried: some hundreds in `make test`, many in `make test-properties`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import pytest
from hypothesis import settings

ROWS = "LORA_PROPERTY_ROWS"
"""Environment variable of tests/properties: rows for each property."""
TELL_EVERY = 30.0
"""Seconds."""
Test = TypeVar("Test", bound=Callable[..., Any])


def tried_on(few: int, *, tests: int = 1) -> Callable[[Test], Test]:
    """Try a test of rows on a few of them, always the same ones. Stands above `given`.

    `make test-properties` tries the property on as many as it is told to, from its seed, and divides these among all
    `tests` of the property (parameters counted).
    """
    rows = int(os.environ.get(ROWS, "0"))

    def decorate(test: Test) -> Test:
        if not rows:
            return pytest.mark.rows(settings(max_examples=few, derandomize=True)(test))
        share = max(1, rows // tests)
        inner: Any = getattr(test, "hypothesis")  # noqa: B009 - `given` adds it to the function
        inner.inner_test = _telling(inner.inner_test, share * tests)
        return pytest.mark.rows(settings(max_examples=share, derandomize=False, database=None)(test))

    return decorate


def _telling(test: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """The test, which tells now and then on how many rows it was tried, with all its parameters."""
    tried, told = 0, time.monotonic()

    @wraps(test)
    def telling(*arguments: Any, **named: Any) -> Any:
        nonlocal tried, told
        tried += 1
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            print(f"  {test.__name__}: {tried} rows of {rows}", file=sys.stderr, flush=True)
        return test(*arguments, **named)

    return telling
