"""The numbers in a model's config.json that determine its memory and its compute. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.lora import LoraSpec
from lora_trainer.errors import TrainerError

MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The dimensions of a decoder-only model like Llama."""

    model_type: str
    """Name of its architecture in transformers."""
    recurrent: bool
    """Whether some of its layers pass a state from token to token (Mamba, linear attention, convolutions)."""
    hidden: int
    layers: int
    vocabulary: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    positions: int | None
    """Tokens of the longest sequence that it supports."""
    experts: int
    tied_embeddings: bool
    quantized: bool
    """Whether its weights are already quantised."""

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear layer of one decoder layer."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Parameters that 4-bit loading quantises."""
        return self.layers * sum(
            inputs * outputs * (self.experts if name in MLP else 1)
            for name, (inputs, outputs) in self.projections.items()
        )

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding and, where it has its own, the output head."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    def lora_parameters(self, lora: LoraSpec) -> int:
        """Parameters of the adapter. A module that is not a known projection counts as hidden x hidden."""
        shapes = [self.projections.get(name, (self.hidden, self.hidden)) for name in lora.target_modules]
        return self.layers * lora.r * sum(inputs + outputs for inputs, outputs in shapes)

    def flops_per_token(self, lora: LoraSpec, *, row_tokens: float) -> float | None:
        """Useful floating-point operations of a training step per token, in rows of `row_tokens`.

        A frozen weight takes 2 in the forward pass and 2 for the gradient that flows through it, one of the adapter 2
        more for its own gradient. Attention takes 4 per pair of a token and one before it and per channel of a head,
        three times over. What checkpointing computes again does not count. None for a mixture of experts, of which a
        token meets few.
        """
        if self.experts > 1:
            return None
        frozen = self.linear_parameters + self.vocabulary * self.hidden
        attention = 12 * self.layers * self.heads * self.head_size * (row_tokens + 1) / 2
        return 4 * frozen + 6 * self.lora_parameters(lora) + attention


def model_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a config.json. Raises ModelUnsupported that names the missing fields."""
    text = config.get("text_config") or config
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [name for name in needed if not isinstance(text.get(name), int)]:
        raise TrainerError(
            ExitCode.ModelUnsupported,
            f"The model's config.json has no {', '.join(missing)}: it is not a decoder-only model like Llama.",
            "Set model.name to a text-generation model such as Llama, Mistral, Qwen, Gemma or SmolLM.",
        )
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    return ModelShape(
        model_type=text.get("model_type", ""),
        recurrent=_recurrent(text),
        hidden=hidden,
        layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
        intermediate=text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_size=text.get("head_dim") or hidden // heads,
        positions=text.get("max_position_embeddings"),
        experts=text.get("num_experts") or text.get("num_local_experts") or 1,
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        quantized="quantization_config" in config,
    )


def _recurrent(text: Mapping[str, Any]) -> bool:
    """Whether fields or layer types name layers that pass a state from token to token.

    transformers has no common field for it. A test compares this with the code of all its decoders.
    """
    types = text.get("layer_types") or ()
    return any(kind == "linear_attention" or not kind.endswith("attention") for kind in types) or any(
        "conv" in field or "mamba" in field or field == "lru_width" for field in text
    )
