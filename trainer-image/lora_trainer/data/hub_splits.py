"""Splits of a dataset on the Hugging Face Hub, by the names of its files, as the Hub itself finds them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words in paths, and the split that each means."""
WORD = re.compile(rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])")
SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}")
"""How the Hub names the files of a split, which may have a name of its own: train_sft-00000-of-00003.parquet."""
DEFAULT = "train"


def split_of(path: str) -> str | None:
    """The split that a file belongs to; None where its path names none."""
    shard = SHARD.search(path)
    if shard and WORD.search(shard["split"].lower()):
        name = shard["split"]
        return WORDS.get(name.lower(), name)
    word = WORD.search(path.lower())
    return WORDS[word[1]] if word else None


def of_split(paths: Sequence[str], split: str) -> list[str]:
    """The paths of one split. Where no path names a split, all of them are of the split train."""
    splits = {path: split_of(path) for path in paths}
    if split == DEFAULT and not any(splits.values()):
        return list(paths)
    return [path for path, of in splits.items() if of == split]
