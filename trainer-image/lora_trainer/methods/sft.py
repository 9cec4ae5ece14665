"""Supervised fine-tuning: builds TRL's SFTTrainer on tokenised rows, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.methods.arguments import finish, length_step, loop_arguments
from lora_trainer.packing import sequence_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.sft_trainer import SFTTrainer


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

    # Unsloth puts its own classes under these names of trl, and of no other module on every device.
    config = trl.SFTConfig(  # pyright: ignore[reportPrivateImportUsage] - trl loads lazily, which hides its exports
        **loop_arguments(run, chosen=chosen, folder=folder),
        packing=chosen.packing,
        max_length=sequence_tokens(run, chosen),
        completion_only_loss=True,
        pad_to_multiple_of=length_step(run),
    )
    trainer = trl.SFTTrainer(  # pyright: ignore[reportPrivateImportUsage] - as above
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks
    )
    # Steps were counted for sequences of this length: shorter ones would end the run before its rows are through.
    packed_to = getattr(trainer.args, "max_length", None)
    if chosen.packing_length and packed_to and packed_to < chosen.packing_length:
        raise RuntimeError(f"rows are packed to {packed_to} tokens instead of {chosen.packing_length}")
    finish(trainer, model)
    return trainer
