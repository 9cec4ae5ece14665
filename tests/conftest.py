"""Options of the test suites."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes what is rendered now into tests/golden; look at the difference before committing it."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is rendered now")
