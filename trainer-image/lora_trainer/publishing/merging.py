"""Merges the adapter into its base model in 16 bits, and verifies that the result is the same model.

Uses transformers and PEFT, not Unsloth, and therefore runs in its own process (see exports.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION, RUN_SHAPE
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.errors import TrainerError
from lora_trainer.evaluation.comparison import EvaluationFile

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_DRIFT = 0.5
"""Rounding to 16 bits moves the logits a little. Half of the adapter's own effect is no rounding any more; a merge
that was not done at all would be 1."""
COMPARED_TOKENS = 64
"""Last tokens of the probe whose logits are compared."""
LARGEST_SHARD = "4GB"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model on disk, and what it was seen to do."""

    drift: float
    """How far its logits are from those of base and adapter, as a share of how far the adapter moved them."""
    probe: str
    """A held-out prompt as the model reads it."""
    probe_ids: list[int]
    """Its tokens."""
    next_token: int
    """The most probable token after it."""


def merge(adapter: Path, *, base: Path, folder: Path) -> Merged:
    """Write the merged model, its tokenizer and settings to `folder`. Raises TrainerError ExportFailed."""
    logging.disable_progress_bar()
    spec = ModelSpec.model_validate(json.loads((adapter / RUN_SHAPE).read_bytes())["model"])
    probe = EvaluationFile.model_validate_json((adapter / EVALUATION).read_bytes()).probe
    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True)
    ids = tokenizer(probe, add_special_tokens=False, truncation=True, max_length=spec.max_seq_length)["input_ids"]
    dtype = getattr(torch, spec.dtype or "bfloat16")

    model = PeftModel.from_pretrained(_load(base, dtype), str(adapter), local_files_only=True).eval()
    tuned = _logits(model, ids)
    with model.disable_adapter():
        plain = _logits(model, ids)
    model.merge_and_unload().save_pretrained(str(folder), max_shard_size=LARGEST_SHARD)
    tokenizer.save_pretrained(folder)
    del model

    merged = _logits(_load(folder, dtype), ids)
    drift = require_same(merged, tuned=tuned, plain=plain)
    return Merged(drift=drift, probe=probe, probe_ids=list(ids), next_token=int(merged[-1].argmax()))


def require_same(merged: torch.Tensor, *, tuned: torch.Tensor, plain: torch.Tensor) -> float:
    """The drift of a merged model's logits, given those of base and adapter (`tuned`) and of the base (`plain`).

    Raises TrainerError ExportFailed where it is more than LARGEST_DRIFT.
    """
    drift = ((merged - tuned).abs().mean() / (tuned - plain).abs().mean()).item()
    if not drift <= LARGEST_DRIFT:
        raise TrainerError(
            ExitCode.ExportFailed,
            f"The merged model does not match the trained model: its logits differ from base and adapter by"
            f" {drift:.2f} of what the adapter changes (at most {LARGEST_DRIFT:g} is allowed).",
            "Use the adapter without merging it. Or train with model.quantization: None, a higher rank or a higher"
            " learning rate, so that the adapter's change exceeds the rounding of 16-bit weights.",
        )
    return drift


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    device = {"": 0} if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device, local_files_only=True)
    return model.eval()


@torch.inference_mode()
def _logits(model: PreTrainedModel | PeftModel, ids: list[int]) -> torch.Tensor:
    """Of the last COMPARED_TOKENS tokens, one row each."""
    tokens = torch.tensor([ids], device=model.device)
    return model(input_ids=tokens, logits_to_keep=COMPARED_TOKENS, use_cache=False).logits[0].float().cpu()
