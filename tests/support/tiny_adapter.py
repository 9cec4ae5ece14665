"""A model of the tiny model's shape with random weights and a random adapter, which torch computes with at once."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tests.support.tiny_model import CONFIG, write_tiny_model


def tiny_adapter(folder: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The model, always with the same weights, and its tokenizer, which is written into the folder."""
    torch.manual_seed(1)
    base = LlamaForCausalLM(LlamaConfig(**{name: value for name, value in CONFIG.items() if name != "architectures"}))
    adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(base, adapter), AutoTokenizer.from_pretrained(write_tiny_model(folder))
