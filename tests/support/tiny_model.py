"""A model folder small enough for unit tests: a byte-level tokenizer, a chat template, a config and one tiny tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.support.safetensors_file import encoded

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}


def tiny_tokenizer(*, special: Sequence[str] = CHATML_TOKENS, bos: str | None = None) -> Tokenizer:
    """One token per byte, after the special ones; with `bos` the tokenizer itself puts that token first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return tokenizer


def write_tiny_model(folder: Path, *, template: str | None = CHATML, config: dict | None = None) -> Path:
    """Write the folder as save_pretrained would."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    return folder


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of a model of CONFIG's shape."""
    hidden, intermediate, key = 64, 128, 32
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    layers = {f"model.layers.{n}.{name}.weight": shape for n in range(2) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (300, hidden), **layers, "model.norm.weight": (hidden,)}


def safetensors_bytes() -> bytes:
    """A safetensors file with bfloat16 tensors of zeros."""
    return encoded({name: (shape, bytes(2 * prod(shape))) for name, shape in tensor_shapes().items()})
