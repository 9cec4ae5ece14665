"""Checks whether a base model can be used with the spec, before anything is loaded. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lora_trainer.base_model.weights import Shapes, embedding_rows, layer_modules
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.lora import PROJECTIONS, LoraSpec
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.errors import TrainerError

GENERATIVE = ("ForCausalLM", "ForConditionalGeneration")
"""Endings of the architectures that can be fine-tuned here."""


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Raise ModelUnsupported for a model that does not generate text or is quantised by a method of another kind."""
    architecture = architecture_of(config)
    if not architecture.endswith(GENERATIVE):
        what = f"its config.json names the architecture {architecture}, which does not generate text"
        raise unsupported(name, what, "Choose a text-generation model")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method not in (None, "bitsandbytes"):
        what = f"its weights are already quantised with {method}"
        raise unsupported(
            name, what, "Choose the model's 16-bit weights; with model.quantization: NF4 they are quantised on loading"
        )


def check_shards(name: str, index: Mapping[str, Any], files: Collection[str]) -> None:
    """Raise ModelUnsupported where a file that the index of a split model names is not there."""
    missing = sorted(set((index.get("weight_map") or {}).values()) - set(files))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        what = f"its index names {missing[0]}{more}, which is missing"
        raise unsupported(name, what, "Upload the whole folder that save_pretrained wrote")


def check_targets(lora: LoraSpec, shapes: Shapes) -> None:
    """Raise ConfigInvalid for a module that the model does not have. Of the default ones some may be missing, because
    models fuse them."""
    present = layer_modules(shapes)
    unknown = [module for module in lora.target_modules if module not in present]
    wrong = [module for module in unknown if module not in PROJECTIONS] or (
        unknown if len(unknown) == len(lora.target_modules) else []
    )
    if wrong and present:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"lora.targetModules names {', '.join(wrong)}, which the model's layers do not have.",
            f"Choose from {', '.join(sorted(present))}.",
        )


def check_vocabulary(model: ModelSpec, shapes: Shapes, *, tokens: int) -> None:
    """Raise ModelUnsupported for a tokenizer that knows more tokens than the model."""
    rows = embedding_rows(shapes)
    if rows is not None and tokens > rows:
        what = f"its tokenizer has {tokens} tokens but its weights only {rows}, so they belong to different models"
        raise unsupported(model.address, what, "Upload the tokenizer that belongs to the weights")


def check_length(model: ModelSpec, *, positions: int | None) -> None:
    """Raise ConfigInvalid where rows may be longer than the model's `positions`.

    Unsloth would stretch the rotary embedding without a word, and whoever serves the adapter would not.
    """
    if positions is not None and model.max_seq_length > positions:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"model.maxSeqLength is {model.max_seq_length}, but {model.address} supports {positions} positions"
            " (max_position_embeddings in its config.json). An adapter for longer rows would not be served as it was"
            " trained.",
            f"Set model.maxSeqLength to at most {positions}, or choose a model for longer texts.",
        )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that config.json names first, or none."""
    return next(iter(config.get("architectures") or ()), "none")


def unsupported(name: str, what: str, remedy: str) -> TrainerError:
    """The ending for a model that cannot be used."""
    return TrainerError(ExitCode.ModelUnsupported, f"The model {name} cannot be used: {what}.", f"{remedy}.")
