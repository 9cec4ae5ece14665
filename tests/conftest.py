"""Options and marks of the test suites."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes what is rendered now; look at the difference before committing it."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite what is rendered: tests/golden, tables and references in docs, the PrometheusRule",
    )


def pytest_configure(config: pytest.Config) -> None:
    """`rows` marks the properties of rows (see tests/properties/rows.py)."""
    config.addinivalue_line("markers", "rows: holds for every row of a dataset; make test-properties tries many")
