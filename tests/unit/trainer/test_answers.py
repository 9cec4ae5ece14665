"""Exact match: what counts as the same answer."""

from __future__ import annotations

import pytest
from lora_trainer.evaluation.answers import exact_match

REFERENCE = "SELECT name FROM singer WHERE age > 30"

CASES = [
    (REFERENCE, False, True),
    (f"  {REFERENCE}\n", False, True),
    (REFERENCE.replace(" FROM", "\n  FROM"), False, True),
    (REFERENCE.lower(), False, False),
    (REFERENCE.lower(), True, True),
    (REFERENCE + ";", True, False),
    ("", True, False),
]


@pytest.mark.parametrize(("answer", "ignore_case", "same"), CASES)
def test_what_counts_as_the_same(answer: str, ignore_case: bool, same: bool) -> None:
    assert exact_match([answer], [REFERENCE], ignore_case=ignore_case) == same


def test_the_share_is_of_all_answers() -> None:
    assert exact_match(["a", "b", "c", "d"], ["a", "x", "c", "y"], ignore_case=False) == 0.5
