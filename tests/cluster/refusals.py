"""Requests that the API server should refuse."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.demo.kubectl import KubectlError

SECONDS = 60
"""In which the API server must have heard of a class, policy or webhook that is new: one that has just started reads
classes after half a minute."""


def refusal_of(action: Callable[[], object]) -> str:
    """What the API server says to a request that it refuses; empty where it accepts it."""
    try:
        action()
    except KubectlError as refused:
        return str(refused)
    return ""


def first_refusal(attempt: Callable[[], str]) -> str:
    """Try until the API server has heard of what it judges by, and refuses."""
    deadline = time.monotonic() + SECONDS
    while not (said := attempt()):
        assert time.monotonic() < deadline, "the API server still accepts it"
        time.sleep(0.2)
    return said
