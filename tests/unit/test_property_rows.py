"""How many rows a property is tried on, and what is told meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import rows
from tests.properties.rows import ROWS, tried_on


def property_of(seen: list[int]) -> Callable[[], None]:
    @tried_on(5, tests=4)
    @given(st.integers())
    def grows(number: int) -> None:
        seen.append(number)

    return grows


def test_a_few_rows_are_the_same_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROWS, raising=False)
    once, again = [], []
    property_of(once)()
    property_of(again)()
    assert len(once) == 5
    assert once == again


def test_many_rows_are_divided_among_the_tests_of_a_property(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ROWS, "100")
    monkeypatch.setattr(rows, "TELL_EVERY", 0)
    seen: list[int] = []
    property_of(seen)()
    assert len(seen) == 25
    assert capsys.readouterr().err.endswith("  grows: 25 rows of 100\n")
