"""Steps are counted for as many packed sequences as TRL makes of the rows."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from datasets import Dataset
from lora_trainer.packing import packed_sequences
from trl.data_utils import pack_dataset

LENGTH = 2048


def lengths(kind: str, rows: int) -> list[int]:
    generator = random.Random(kind)
    drawn = {
        "chats": lambda: round(generator.lognormvariate(5.7, 0.8)),
        "too long for two": lambda: generator.randint(1025, 1400),
        "equal": lambda: 300,
        "whole": lambda: LENGTH,
        "longer than a sequence": lambda: generator.randint(1, 2 * LENGTH),
    }
    return [min(max(1, drawn[kind]()), 2 * LENGTH) for _ in range(rows)]


@pytest.mark.parametrize("rows", [1, 999, 2500])
@pytest.mark.parametrize("kind", ["chats", "too long for two", "equal", "whole", "longer than a sequence"])
def test_as_many_sequences_as_trl_makes(kind: str, rows: int) -> None:
    row_lengths = lengths(kind, rows)
    packed = pack_dataset(of_lengths(row_lengths), LENGTH, "bfd")
    assert packed_sequences(row_lengths, length=LENGTH) == len(packed)


def of_lengths(row_lengths: Sequence[int]) -> Dataset:
    return Dataset.from_dict({"input_ids": [[1] * length for length in row_lengths]})
