"""Copies share nothing that can change."""

from __future__ import annotations

from enum import IntEnum

from tests.fakes.copying import copied


class Code(IntEnum):
    OUT_OF_MEMORY = 30


def test_a_change_of_the_copy_leaves_the_original_alone() -> None:
    original = {"items": [{"labels": {"a": "1"}, "ports": [1, 2]}], "none": None}
    copy = copied(original)
    assert copy == original
    copy["items"][0]["labels"]["a"] = "2"
    copy["items"][0]["ports"].append(3)
    copy["items"].append({})
    assert original == {"items": [{"labels": {"a": "1"}, "ports": [1, 2]}], "none": None}


def test_numbers_with_names_stay_what_they_are() -> None:
    assert copied({"exitCode": Code.OUT_OF_MEMORY})["exitCode"] is Code.OUT_OF_MEMORY
