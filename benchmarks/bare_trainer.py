"""The script of a notebook, with nothing of ours in it: Unsloth and TRL on tokenised rows. See benchmarks/trainer.py.

Prints one line of JSON per step: its number, its loss and when it was done.
"""

import argparse
import json
import time
from typing import Any

import unsloth  # isort: skip - it patches the libraries below
import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PrintSteps(TrainerCallback):
    """What a notebook shows of its steps."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        """Called after each step."""
        del args, control
        if "loss" in values["logs"]:
            step = {"step": state.global_step, "loss": values["logs"]["loss"], "time": time.time()}
            print(json.dumps(step), flush=True)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--rows", "--folder", "--settings"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    settings = json.loads(arguments.settings)
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=arguments.model,
        max_seq_length=settings["max_length"],
        dtype=torch.bfloat16 if settings["bf16"] else torch.float32,
        load_in_4bit=True,
        use_exact_model_name=True,
        use_gradient_checkpointing=False,
    )
    model = unsloth.FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16, use_gradient_checkpointing=False)
    trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_parquet(arguments.rows, cache_dir=arguments.folder),
        args=trl.SFTConfig(output_dir=arguments.folder, report_to="none", disable_tqdm=True, **settings),
        callbacks=[PrintSteps()],
    ).train()


if __name__ == "__main__":
    main()
