"""Supervised fine-tuning: builds TRL's SFTTrainer on tokenised rows, nothing else."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import RunFile
from lora_trainer.methods.arguments import finish, length_step, loop_arguments
from lora_trainer.packing import influence_each_other, pack, sequence_tokens
from lora_trainer.prepared import NO_LABEL

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
    """A trainer over `rows` (columns input_ids and completion_mask) that writes its checkpoints into `folder`.

    Raises ConfigInvalid where rows are packed and Unsloth would not keep them apart in this model.
    """
    import trl

    packed = {}
    if chosen.packing_length:
        seed, file = run.training.seed, folder / "packed.arrow"
        rows = packed_rows(rows, length=chosen.packing_length, seed=seed, file=file)
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
    # Unsloth turns packing off for some models with a warning, and would train each sequence as one row.
    if chosen.packing_length and not getattr(trainer.data_collator, "padding_free", False):
        raise influence_each_other(f"Unsloth does not keep them apart ({type(model.get_base_model()).__name__})")
    finish(trainer, model)
    return trainer


def packed_rows(rows: Dataset, *, length: int, seed: int, file: Path) -> Dataset:
    """Sequences of at most `length` tokens in the columns that TRL packs into: input_ids and labels, both of all rows
    of a sequence end to end, and seq_lengths, the tokens of each row. They are read from `file`, not held in memory."""
    import numpy as np
    from datasets import Dataset
    from pyarrow import compute

    table = rows.with_format("arrow")
    lengths = compute.call_function("list_value_length", [table[:]["input_ids"]]).to_pylist()

    def join(batch: dict[str, list[list[int]]]) -> dict[str, list[Any]]:
        taken = table[[*chain.from_iterable(batch["rows"])]]
        ids, trained = (
            compute.call_function("list_flatten", [taken[column]]).to_numpy()
            for column in ("input_ids", "completion_mask")
        )
        labels = np.where(trained, ids, ids.dtype.type(NO_LABEL))
        row_lengths = [[lengths[row] for row in sequence] for sequence in batch["rows"]]
        ends = np.cumsum([sum(sequence) for sequence in row_lengths])[:-1]
        return {"input_ids": np.split(ids, ends), "labels": np.split(labels, ends), "seq_lengths": row_lengths}

    sequences = Dataset.from_dict({"rows": pack(lengths, length=length, seed=seed)})
    file.parent.mkdir(parents=True, exist_ok=True)
    return sequences.map(
        join,
        batched=True,
        batch_size=100,
        remove_columns="rows",
        cache_file_name=str(file),
        load_from_cache_file=False,
    )
