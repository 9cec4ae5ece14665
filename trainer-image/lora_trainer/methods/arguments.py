"""What the trainers of all methods share: the arguments of the training loop, and 32-bit adapter weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.lora import GradientCheckpointing

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer

CPU_LENGTH_STEP = 64


def loop_arguments(run: RunFile, *, chosen: Chosen, folder: Path) -> dict[str, Any]:
    """Keyword arguments of transformers' TrainingArguments, which TRL's configurations extend."""
    training = run.training
    return {
        "output_dir": str(folder),
        "max_steps": chosen.max_steps,
        "per_device_train_batch_size": chosen.per_device_train_batch_size,
        "gradient_accumulation_steps": chosen.gradient_accumulation_steps,
        "learning_rate": chosen.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": round(training.warmup_ratio * chosen.max_steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": chosen.optim,
        "gradient_checkpointing": run.gradient_checkpointing is not GradientCheckpointing.DISABLED,
        "bf16": chosen.dtype == "bfloat16",
        "fp16": chosen.dtype == "float16",
        "dataloader_num_workers": chosen.dataloader_workers,
        "dataloader_persistent_workers": chosen.dataloader_workers > 0,
        "use_cpu": run.accelerator.kind is AcceleratorKind.CPU,
        "seed": training.seed,
        "data_seed": training.seed,
        "save_strategy": "no",  # but when a callback says so
        "logging_steps": 1,
        # A loss of NaN must be seen, not averaged away.
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True,
        "report_to": "none",
    }


def length_step(run: RunFile) -> int | None:
    """What lengths are padded to a multiple of, where it helps."""
    # On a CPU every new length costs memory that is not given back (oneDNN caches its kernels by shape).
    return CPU_LENGTH_STEP if run.accelerator.kind is AcceleratorKind.CPU else None


def finish(trainer: Trainer, model: PeftModel) -> None:
    """Undo changes of TRL that this trainer does not want."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    # The reference is the base model. The copy of the untrained adapter that TRL would use instead needs memory, and
    # is saved in every checkpoint.
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    # TRL casts a 4-bit model's adapter to bfloat16, while resuming restores it in float32: only with float32 in both
    # does a resumed run end with the same bytes as an uninterrupted one.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
