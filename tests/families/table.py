"""The families of models that people fine-tune, each as a small model: its config with all peculiarities, sizes cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SIZES: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: Mapping[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family."""

    model_type: str
    """Of transformers."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What its small config has in addition to SIZES."""
    composite: str | None = None
    """The type of the model that has it as its language part, where it is published so."""


FAMILIES: Mapping[str, Family] = {
    "Llama 3": Family(model_type="llama"),
    "Llama 4": Family(
        model_type="llama4_text",
        fields={"num_local_experts": 4, "intermediate_size_mlp": 512, "attention_chunk_size": 128},
    ),
    "Qwen2.5": Family(model_type="qwen2"),
    "Qwen3": Family(model_type="qwen3"),
    "Qwen3 MoE": Family(model_type="qwen3_moe", fields=EXPERTS),
    "Qwen3-Next": Family(
        model_type="qwen3_next",
        fields={
            **EXPERTS,
            "shared_expert_intermediate_size": 128,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
        },
    ),
    "Qwen3.5": Family(
        model_type="qwen3_5_text",
        fields={
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
        },
    ),
    "Gemma 2": Family(model_type="gemma2", fields={"sliding_window": 128, "query_pre_attn_scalar": 64}),
    "Gemma 3": Family(
        model_type="gemma3_text",
        fields={"num_hidden_layers": 6, "sliding_window": 128, "query_pre_attn_scalar": 64},
    ),
    "Gemma 3, with vision": Family(
        model_type="gemma3_text",
        fields={"num_hidden_layers": 6, "sliding_window": 128, "query_pre_attn_scalar": 64},
        composite="gemma3",
    ),
    "Mistral": Family(model_type="mistral", fields={"sliding_window": 128}),
    "Mistral Small 3": Family(model_type="mistral", composite="mistral3"),
    "Ministral": Family(model_type="ministral", fields={"sliding_window": 128}),
    "Phi-3.5 and 4": Family(model_type="phi3", fields={"sliding_window": 128}),
    "gpt-oss": Family(
        model_type="gpt_oss",
        fields={"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128, "intermediate_size": 256},
    ),
    "GLM-4": Family(model_type="glm4"),
    "GLM-4.5": Family(
        model_type="glm4_moe",
        fields={"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "n_group": 1},
    ),
    "OLMo 2": Family(model_type="olmo2"),
    "OLMo 3": Family(model_type="olmo3", fields={"sliding_window": 128}),
    "SmolLM3": Family(model_type="smollm3"),
    "Granite 3": Family(model_type="granite"),
    "Granite 4": Family(
        model_type="granitemoehybrid",
        fields={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 256,
            "layer_types": ["mamba", "attention", "mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 64,
            "mamba_d_state": 32,
        },
    ),
    "DeepSeek V3": Family(
        model_type="deepseek_v3",
        fields={
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
            "q_lora_rank": 128,
            "kv_lora_rank": 64,
            "qk_rope_head_dim": 32,
            "qk_nope_head_dim": 64,
            "v_head_dim": 64,
            "head_dim": 32,
        },
    ),
    "Nemotron": Family(model_type="nemotron"),
    "LFM2": Family(model_type="lfm2", fields={"layer_types": ["conv", "full_attention"] * 2}),
    "Command R": Family(model_type="cohere"),
    "Command R7B": Family(model_type="cohere2", fields={"sliding_window": 128}),
}
