"""The base model and its LoRA adapter, through Unsloth. Loads and wraps; trains nothing.

Unsloth must be imported before transformers, TRL and PEFT (see libraries.py), so imports are inside the functions.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import resource
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.lora import GradientCheckpointing
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECKPOINTING: Mapping[GradientCheckpointing, str | bool] = {
    GradientCheckpointing.UNSLOTH: "unsloth",
    GradientCheckpointing.ENABLED: True,
    GradientCheckpointing.DISABLED: False,
}
"""Values of Unsloth's own argument."""


def require_accelerator(kind: AcceleratorKind, *, count: int) -> None:
    """Raises GpuUnhealthy where the class promises GPUs and torch sees none, or fewer."""
    if kind == AcceleratorKind.CPU:
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < count:
        asked = "a GPU" if count == 1 else f"{count} GPUs"
        raise TrainerError(
            ExitCode.GpuUnhealthy,
            f"The pod requested {asked}, but torch {torch.__version__} sees {seen or 'none'} on node "
            f"{os.environ.get('NODE_NAME', 'unknown')}.",
            "Check the node's driver and device plugin, and that the class requests a GPU resource.",
        )


def accelerator_name(kind: AcceleratorKind) -> str:
    """The first accelerator of this machine, with the version of what compiles for it."""
    match kind:
        case AcceleratorKind.GPU:
            import torch

            major, minor = torch.cuda.get_device_capability()
            return f"{torch.cuda.get_device_name()}, sm_{major}{minor}, CUDA {torch.version.cuda}"
        case AcceleratorKind.CPU:
            return platform.machine()
        case _:
            assert_never(kind)


def compute_dtype(run: RunFile, chosen: Chosen) -> Chosen:
    """`chosen` with a compute type that this machine supports, where the user set none."""
    import torch

    if run.model.dtype is not None:
        return chosen
    match run.accelerator.kind:
        case AcceleratorKind.GPU:
            dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        case AcceleratorKind.CPU:
            # Without instructions for it, bfloat16 is emulated and several times slower than float32.
            dtype = "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
        case _:
            assert_never(run.accelerator.kind)
    return chosen.model_copy(update={"dtype": dtype})


def load(
    run: RunFile, *, folder: Path, dtype: str, loader: Loader, sequence_tokens: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model in `folder`, in 4-bit where the spec says so, and its tokenizer.

    `sequence_tokens` is the length of the longest sequence: Unsloth silently truncates longer ones.

    `folder` holds the pinned revision; Unsloth must not replace it by a repository of its own. Raises ConfigInvalid
    where the run needs vLLM and the image has none.
    """
    import unsloth  # noqa: I001 - first of all, see the module's docstring
    import torch
    from transformers.utils import logging

    if vllm_arguments(run) and find_spec("vllm") is None:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            "training.grpo.fastInference needs vLLM, which the class's trainer image does not include.",
            "Choose a class whose image is the variant with vLLM, or remove training.grpo.fastInference.",
        )
    logging.disable_progress_bar()
    return getattr(unsloth, loader).from_pretrained(
        model_name=str(folder), dtype=getattr(torch, dtype), **load_arguments(run, sequence_tokens=sequence_tokens)
    )


def load_arguments(run: RunFile, *, sequence_tokens: int) -> dict[str, Any]:
    """Arguments of Unsloth's from_pretrained that the run decides."""
    spec = run.model
    return {
        "max_seq_length": sequence_tokens,
        "load_in_4bit": spec.in_4bit,
        "load_in_16bit": not spec.in_4bit,
        "use_exact_model_name": True,
        "use_gradient_checkpointing": CHECKPOINTING[run.gradient_checkpointing],
        "random_state": run.training.seed,
        "local_files_only": True,
        "trust_remote_code": False,
        **vllm_arguments(run),
    }


def vllm_arguments(run: RunFile) -> dict[str, Any]:
    """Arguments that let Unsloth generate with vLLM; none where the model itself generates."""
    grpo = run.training.grpo
    if grpo is None or not grpo.fast_inference:
        return {}
    return {
        "fast_inference": True,
        "max_lora_rank": grpo.max_lora_rank or run.lora.r,
        "gpu_memory_utilization": grpo.vllm_memory_share,
    }


def add_adapter(model: PreTrainedModel, run: RunFile, *, kept_layers: int = 0) -> PeftModel:
    """The model with a new LoRA adapter, whose weights alone are trained. The activations of `kept_layers` decoder
    layers are kept instead of recomputed."""
    import unsloth

    spec = run.lora
    loftq = {}
    if spec.loftq_config is not None:
        loftq = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4} | spec.loftq_config.model_dump()}
    # Unsloth's CPU backend does not accept the argument, and has nothing to skip.
    kept = (
        {"checkpoint_skip_layers": kept_layers} if run.gradient_checkpointing is GradientCheckpointing.UNSLOTH else {}
    )
    # FastLanguageModel also accepts models of FastModel.
    return unsloth.FastLanguageModel.get_peft_model(
        model,
        r=spec.r,
        target_modules=list(spec.target_modules),
        lora_alpha=spec.alpha,
        lora_dropout=spec.lora_dropout,
        bias=spec.bias,
        use_gradient_checkpointing=CHECKPOINTING[run.gradient_checkpointing],
        random_state=run.training.seed,
        use_rslora=spec.use_rslora,
        **kept,
        **loftq,
    )


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Replace the adapter's weights by those saved in `folder`."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def adapter_digest(model: PeftModel) -> str:
    """sha256 over the trained weights."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def peak_flops(kind: AcceleratorKind, *, dtype: str) -> float | None:
    """Peak floating-point operations per second of the GPU by its specification; None where it is unknown."""
    match kind:
        case AcceleratorKind.GPU:
            import torch
            from unsloth.utils.mfu import get_peak_tflops

            tera = get_peak_tflops(dtype=getattr(torch, dtype))
            return None if tera is None else tera * 1e12
        case AcceleratorKind.CPU:
            return None
        case _:
            assert_never(kind)


def peak_memory_gib(kind: AcceleratorKind) -> float:
    """Peak memory of this process: on the accelerator, or resident memory on a CPU class."""
    match kind:
        case AcceleratorKind.GPU:
            import torch

            return torch.cuda.max_memory_reserved() / GIB
        case AcceleratorKind.CPU:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        case _:
            assert_never(kind)


def release_memory() -> None:
    """Free the memory of deleted models, so that another process can load one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
