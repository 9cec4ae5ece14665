"""Supervised fine-tuning: builds TRL's SFTTrainer on tokenised rows, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import AcceleratorKind, RunFile

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.sft_trainer import SFTTrainer

CPU_LENGTH_STEP = 64


def build_trainer(
    run: RunFile,
    *,
    chosen: Chosen,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    folder: Path,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """A trainer over `rows` (columns input_ids and completion_mask) that writes its checkpoints into `folder`."""
    import trl  # noqa: PLC0415 - Unsloth must have been imported before
    from transformers import PrinterCallback  # noqa: PLC0415 - after Unsloth

    training = run.training
    cpu = run.accelerator.kind == AcceleratorKind.CPU
    # Unsloth puts its own classes under these names of trl, and of no other module on every device.
    config = trl.SFTConfig(  # pyright: ignore[reportPrivateImportUsage] - trl loads lazily, which hides its exports
        output_dir=str(folder),
        max_steps=chosen.max_steps,
        per_device_train_batch_size=chosen.per_device_train_batch_size,
        gradient_accumulation_steps=chosen.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=round(training.warmup_ratio * chosen.max_steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=chosen.optim,
        packing=chosen.packing,
        max_length=run.model.max_seq_length,
        completion_only_loss=True,
        gradient_checkpointing=run.gradient_checkpointing != "disabled",
        bf16=chosen.dtype == "bfloat16",
        fp16=chosen.dtype == "float16",
        use_cpu=cpu,
        # On a CPU every new length costs memory that is not given back (oneDNN caches its kernels by shape).
        pad_to_multiple_of=CPU_LENGTH_STEP if cpu else None,
        seed=training.seed,
        data_seed=training.seed,
        save_strategy="steps",
        save_steps=chosen.save_steps,
        logging_steps=1,
        # A loss of NaN must be seen, not averaged away.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=True,
        report_to="none",
    )
    trainer = trl.SFTTrainer(  # pyright: ignore[reportPrivateImportUsage] - as above
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks
    )
    trainer.remove_callback(PrinterCallback)
    # TRL casts a 4-bit model's adapter to bfloat16, while resuming restores it in float32: only with float32 in both
    # does a resumed run end with the same bytes as an uninterrupted one.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer
