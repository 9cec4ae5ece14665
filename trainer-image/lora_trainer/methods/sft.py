"""Supervised fine-tuning: builds TRL's SFTTrainer on tokenised rows, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.methods.arguments import finish, length_step, loop_arguments
from lora_trainer.packing import pack, sequence_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerCallback
    from trl.trainer.sft_trainer import SFTTrainer

NO_LABEL = -100
"""Tokens with this label are not trained (torch.nn.CrossEntropyLoss.ignore_index)."""


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

    packed = {}
    if chosen.packing_length:
        rows = packed_rows(rows, length=chosen.packing_length, seed=run.training.seed)
        packed = {"packing": True, "dataset_kwargs": {"skip_prepare_dataset": True}}
    # Unsloth puts its own classes under these names of trl, and of no other module on every device.
    config = trl.SFTConfig(  # pyright: ignore[reportPrivateImportUsage] - trl loads lazily, which hides its exports
        **loop_arguments(run, chosen=chosen, folder=folder),
        **packed,
        max_length=sequence_tokens(run, chosen),
        completion_only_loss=True,
        pad_to_multiple_of=length_step(run),
    )
    trainer = trl.SFTTrainer(  # pyright: ignore[reportPrivateImportUsage] - as above
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=callbacks
    )
    finish(trainer, model)
    return trainer


def packed_rows(rows: Dataset, *, length: int, seed: int) -> Dataset:
    """Sequences of at most `length` tokens in the columns that TRL packs into: input_ids and labels, both of all rows
    of a sequence end to end, and seq_lengths, the tokens of each row. They are kept on disk, as the rows are."""
    import numpy as np  # noqa: PLC0415 - only a GPU packs rows
    from datasets import Dataset  # noqa: PLC0415 - Unsloth must have been imported before
    from pyarrow import compute  # noqa: PLC0415 - only a GPU packs rows

    single = rows.with_format("numpy")

    def join(batch: dict[str, list[list[int]]]) -> dict[str, list[Any]]:
        sequences = [[single[row] for row in sequence] for sequence in batch["rows"]]
        return {
            "input_ids": [np.concatenate([row["input_ids"] for row in sequence]) for sequence in sequences],
            "labels": [np.concatenate([labels(row) for row in sequence]) for sequence in sequences],
            "seq_lengths": [[len(row["input_ids"]) for row in sequence] for sequence in sequences],
        }

    def labels(row: dict[str, Any]) -> Any:
        return np.where(row["completion_mask"], row["input_ids"], NO_LABEL)

    lengths = compute.call_function("list_value_length", [rows.with_format("arrow")[:]["input_ids"]]).to_pylist()
    sequences = Dataset.from_dict({"rows": pack(lengths, length=length, seed=seed)})
    return sequences.map(join, batched=True, batch_size=100, remove_columns="rows")
