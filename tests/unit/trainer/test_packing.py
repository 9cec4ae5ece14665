"""How rows are put into sequences: full ones, of rows that chance brought together."""

from __future__ import annotations

import random

import pytest
from lora_trainer.packing import pack

LENGTH = 2048


def lengths(kind: str, rows: int) -> list[int]:
    generator = random.Random(kind)
    drawn = {
        "chats": lambda: round(generator.lognormvariate(5.7, 0.8)),
        "too long for two": lambda: generator.randint(1025, 1400),
        "equal": lambda: 300,
        "whole": lambda: LENGTH,
    }
    return [min(max(1, drawn[kind]()), LENGTH) for _ in range(rows)]


@pytest.mark.parametrize("rows", [1, 999, 2500])
@pytest.mark.parametrize("kind", ["chats", "too long for two", "equal", "whole"])
def test_every_row_once_and_no_sequence_too_long(kind: str, rows: int) -> None:
    row_lengths = lengths(kind, rows)
    sequences = pack(row_lengths, length=LENGTH, seed=0)
    assert sorted(row for sequence in sequences for row in sequence) == [*range(rows)]
    assert all(sum(row_lengths[row] for row in sequence) <= LENGTH for sequence in sequences)


def test_sequences_of_chats_are_full() -> None:
    row_lengths = lengths("chats", 4000)
    assert sum(row_lengths) / (LENGTH * len(pack(row_lengths, length=LENGTH, seed=0))) > 0.98


def test_rows_of_one_length_do_not_stand_together() -> None:
    # As when each kind of row has a length of its own. Packed by length, nearly every sequence is of one kind.
    row_lengths = [200 + 10 * (row % 5) for row in range(1000)]
    sequences = pack(row_lengths, length=LENGTH, seed=0)
    kinds = [len({row_lengths[row] for row in sequence}) for sequence in sequences]
    assert sum(kinds) / len(kinds) > 3.5, "nine rows of five kinds, drawn at random, are of 4.3 kinds in the mean"


def test_the_seed_decides() -> None:
    row_lengths = lengths("chats", 500)
    first, again, other = (pack(row_lengths, length=LENGTH, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
