"""Direct preference optimisation: builds TRL's DPOTrainer on tokenised pairs, nothing else.

The reference is the base model: the adapter is switched off for its half of a step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.methods.arguments import finish, length_step, loop_arguments

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.dpo_trainer import DPOTrainer

PLACEHOLDER = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}


def build_trainer(
    run: RunFile,
    *,
    chosen: Chosen,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    folder: Path,
    callbacks: list[TrainerCallback],
) -> DPOTrainer:
    """A trainer over `rows` (prompt_ids, chosen_ids, rejected_ids) that writes its checkpoints into `folder`."""
    import trl
    from datasets import Dataset

    settings = run.training.dpo_settings
    config = trl.DPOConfig(  # pyright: ignore[reportPrivateImportUsage] - trl loads lazily, which hides its exports
        **loop_arguments(run, chosen=chosen, folder=folder),
        beta=settings.beta,
        loss_type=[settings.loss_type],
        label_smoothing=settings.label_smoothing,
        # TRL would set lora.loraDropout to zero.
        disable_dropout=run.lora.lora_dropout == 0,
        max_length=run.model.max_seq_length,
        pad_to_multiple_of=length_step(run),
    )
    trainer = trl.DPOTrainer(  # pyright: ignore[reportPrivateImportUsage] - as above
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(PLACEHOLDER),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    # TRL tokenises the dataset that it is built with, but these rows are already tokenised.
    trainer.train_dataset = rows
    finish(trainer, model)
    return trainer
