"""`python -m tests.families.models FAMILY FOLDER`: writes a family's small model, of random weights.

A process of its own: Unsloth must be imported before transformers, which this imports.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.families.table import FAMILIES, SIZES, Family

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SEED = 3


def write_model(family: Family, folder: Path, *, tokenizer: Path) -> None:
    """Write the model as save_pretrained does, with the tokenizer of the folder `tokenizer`."""
    torch.manual_seed(SEED)
    kind = AutoModelForImageTextToText if family.composite else AutoModelForCausalLM
    kind.from_config(config_of(family), dtype=torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)


def config_of(family: Family) -> Any:
    """The config of the published kind of model."""
    text = CONFIG_MAPPING[family.model_type](**{**SIZES, **family.fields})
    if family.composite is None:
        return text
    whole: Any = CONFIG_MAPPING[family.composite]
    vision = type(whole().vision_config)(**VISION, image_size=64, patch_size=16)
    return whole(text_config=text.to_dict(), vision_config=vision.to_dict())


def main() -> None:
    """One family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    arguments = parser.parse_args()
    write_model(FAMILIES[arguments.family], arguments.folder, tokenizer=arguments.tokenizer)


if __name__ == "__main__":
    main()
