"""`python -m lora_trainer verify`: verifies that a published adapter is complete, loads and works.

Runs in its own process, which knows only the bucket and the base model. Train runs it; users may run it anywhere. Loads
the adapter as a user would, through transformers and PEFT, without Unsloth.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lora_trainer.base_model.resolve import fetch_model
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import EVALUATION, MANIFEST, RUN_SHAPE, SIGNATURE
from lora_trainer.contract.manifest import ArtifactManifest, SetManifest, Verification, parse_manifest
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.contract.spec.training import Method
from lora_trainer.errors import TrainerError
from lora_trainer.evaluation.answers import stop_tokens
from lora_trainer.evaluation.comparison import EvaluationFile, inference
from lora_trainer.evaluation.pairs import read_pairs
from lora_trainer.evaluation.rows import Row, read_rows, score
from lora_trainer.publishing.signing import Verifier, require_signature
from lora_trainer.storage import Bucket

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

NEW_TOKENS = 16
LOSS_TOLERANCE = 0.02
"""Nats per token, and share of the loss, by which two implementations may differ on the same rows. Training measures
through Unsloth's kernels, verification through those of transformers and PEFT. On an H200 they differ by 0.0002 to
0.002 of this measure (benchmarks/results/verification.json)."""


def verify(
    *,
    bucket: Bucket,
    scratch: Path,
    artifact: str,
    manifest: Path | None = None,
    base: Path | None = None,
    eval_rows: Path | None = None,
    verifier: Verifier | None = None,
) -> Verification:
    """Download the adapter at URI `artifact`, compare every sha256, load it onto its base model, run it.

    With `eval_rows`, the EVAL_ROWS of its prepared set, the losses of the first rows must be those of evaluation.json.

    `manifest` names a SetManifest on disk, for an adapter whose own manifest is not written yet. `base` is the folder
    of the base model; without it the model is fetched from where the manifest says. With a `verifier` the manifest
    must be signed by that key. Raises TrainerError: SignatureInvalid, StorageUnavailable for a file that differs,
    InternalError for an adapter that does not work, or what fetching the base model raises.
    """
    if manifest is not None:
        published, entries = None, SetManifest.model_validate_json(manifest.read_bytes()).files
    else:
        published = _published(bucket, artifact, verifier)
        entries = published.files
    with tempfile.TemporaryDirectory(dir=scratch, prefix="verify-") as work:
        folder = Path(work) / "adapter"
        bucket.fetch_files(entries, artifact, folder)
        shape = json.loads((folder / RUN_SHAPE).read_bytes())
        spec = ModelSpec.model_validate(shape["model"])
        if base is None:
            assert published is not None, "who verifies a draft has the base model"
            base = fetch_model(spec, revision=published.model.revision, bucket=bucket, folder=Path(work) / "base")
        evaluation = EvaluationFile.model_validate_json((folder / EVALUATION).read_bytes())
        measured, dtype = evaluation.row_losses, evaluation.dtype or spec.dtype or _usual_dtype()
        model, tokenizer = _load(spec, base=base, adapter=folder, dtype=dtype)
        rows = [] if eval_rows is None else _rows(eval_rows, Method(shape["training"]["method"]), limit=len(measured))
        with inference(model, dtype):
            difference = _logit_difference(model, tokenizer, evaluation.probe, limit=spec.max_seq_length)
            generated = _generate(model, tokenizer, evaluation.probe, limit=spec.max_seq_length)
            again = [score(model, row).mean_loss for row in rows]
    return Verification(
        files=len(entries),
        max_logit_difference=difference,
        generated_tokens=generated,
        loss_difference=loss_difference(again, measured) if again else None,
    )


def _rows(path: Path, method: Method, *, limit: int) -> list[Row]:
    """The first rows that were scored: of pairs, the chosen answers. Method GRPO scores none."""
    if method is Method.DPO:
        return [chosen for chosen, _ in read_pairs(path, limit=limit)]
    return read_rows(path, limit=limit) if method is Method.SFT else []


def loss_difference(again: Sequence[float], measured: Sequence[float]) -> float:
    """How far apart the mean losses are, in nats per token. Raises TrainerError where this is too far."""
    now, before = fmean(again), fmean(measured)
    if not abs(now - before) <= LOSS_TOLERANCE * (1 + before):
        raise _broken(
            f"its loss on the first {len(measured)} held-out rows is {now:.3f}, while evaluation.json says {before:.3f}"
        )
    return abs(now - before)


def _published(bucket: Bucket, artifact: str, verifier: Verifier | None) -> ArtifactManifest:
    """The adapter's manifest, and with a verifier only one that its key signed."""
    data = bucket.read_if_there(f"{artifact}/{MANIFEST}")
    if verifier is not None and data is not None:
        require_signature(verifier, data, bucket.read_if_there(f"{artifact}/{SIGNATURE}"), uri=artifact)
    published = parse_manifest(ArtifactManifest, data or b"")
    if published is None:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"There is no complete adapter at {artifact}.",
            "Use the URI in status.artifact.uri of the LoraFineTune.",
        )
    return published


def _usual_dtype() -> str:
    """The compute type of an adapter whose evaluation.json does not say it."""
    import torch

    return "float16" if torch.cuda.is_available() and not torch.cuda.is_bf16_supported() else "bfloat16"


def _load(spec: ModelSpec, *, base: Path, adapter: Path, dtype: str) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Base and adapter as they were trained, and the tokenizer from the adapter's own files."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    quantized = hasattr(AutoConfig.from_pretrained(base, local_files_only=True), "quantization_config")
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, dtype),
        device_map={"": 0} if torch.cuda.is_available() else "cpu",
        local_files_only=True,
        **({"quantization_config": four_bit} if spec.in_4bit and not quantized else {}),
    )
    model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(adapter, local_files_only=True)


def _logit_difference(model: PeftModel, tokenizer: PreTrainedTokenizerBase, probe: str, *, limit: int) -> float:
    """Largest absolute difference between the adapter's and the base's logits after the probe."""
    encoded = _encode(model, tokenizer, probe, limit=limit)
    tuned = model(**encoded, logits_to_keep=1, use_cache=False).logits[0, -1].float()
    with model.disable_adapter():
        base = model(**encoded, logits_to_keep=1, use_cache=False).logits[0, -1].float()
    difference = (tuned - base).abs().max().item()
    if not (tuned.isfinite().all() and base.isfinite().all() and math.isfinite(difference)):
        raise _broken("its logits, or those of the base model, are not finite numbers")
    if difference == 0:
        raise _broken("it does not change the logits of the base model")
    return difference


def _generate(model: PeftModel, tokenizer: PreTrainedTokenizerBase, probe: str, *, limit: int) -> int:
    encoded = _encode(model, tokenizer, probe, limit=limit)
    ends = stop_tokens(model, tokenizer)
    tokens = model.generate(
        **encoded, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=ends or None, pad_token_id=(ends or [0])[0]
    )
    generated = tokens.shape[1] - encoded["input_ids"].shape[1]
    if generated == 0:
        raise _broken("it generates nothing after a held-out prompt")
    return generated


def _encode(model: PeftModel, tokenizer: PreTrainedTokenizerBase, probe: str, *, limit: int) -> dict:
    encoded = tokenizer(probe, add_special_tokens=False, truncation=True, max_length=limit, return_tensors="pt")
    return {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}


def _broken(what: str) -> TrainerError:
    return TrainerError(
        ExitCode.InternalError,
        f"The trained adapter does not work when it is loaded again: {what}.",
        "Report it with the pod's log; nothing was published.",
    )
