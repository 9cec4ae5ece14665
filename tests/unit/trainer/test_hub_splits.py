"""Splits by the names of files, as datasets on the Hugging Face Hub have them."""

from __future__ import annotations

import pytest
from lora_trainer.data.hub_splits import of_split, split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00003.parquet", "train"),
        ("data/train_sft-00000-of-00003.parquet", "train_sft"),
        ("data/Test-00000-of-00001.parquet", "test"),
        ("en/validation/0000.parquet", "validation"),
        ("dev.jsonl", "validation"),
        ("my-train-file.csv", "train"),
        ("train1.jsonl", "train"),
        ("eval.jsonl", "test"),
        ("trainer.jsonl", None),
        ("data-00000-of-00001.arrow", None),
        ("rows.jsonl", None),
    ],
)
def test_the_split_of_a_file(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_files_of_a_split() -> None:
    named = ["rows.jsonl", "data/test.jsonl", "data/train.jsonl"]
    assert of_split(named, "train") == ["data/train.jsonl"]
    assert of_split(named, "validation") == []


def test_names_without_a_split_are_all_to_train_on() -> None:
    assert of_split(["a.jsonl", "b.jsonl"], "train") == ["a.jsonl", "b.jsonl"]
    assert of_split(["a.jsonl", "b.jsonl"], "test") == []
