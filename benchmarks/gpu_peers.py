# Unsloth patches the other libraries when it is imported, so each recipe imports its own
"""What people would use instead, with nothing of ours in it: see benchmarks/gpu.py, which starts it.

    python benchmarks/gpu_peers.py RECIPE --model FOLDER --rows FILE --folder SCRATCH --steps N

Trains a 4-bit model on tokenised rows and prints one line of JSON per step, with the fields of our trainer's log.
The settings are those of the QLoRA examples of PEFT and TRL, and of Unsloth's notebooks; both with 4 rows per
forward pass, 8 per optimizer step.
"""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RANK = 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROW_TOKENS = 2048


def settings(folder: Path, steps: int, *, gpu: bool) -> dict[str, Any]:
    """Arguments of TRL's SFTConfig that all recipes share."""
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 2e-4,
        "warmup_steps": 5,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.001,
        "optim": "adamw_8bit" if gpu else "adamw_torch",
        "bf16": gpu,
        "use_cpu": not gpu,
        "seed": 3407,
        "max_length": ROW_TOKENS,
        "completion_only_loss": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
    }


def hugging_face(model: Path, rows: Any, folder: Path, steps: int, *, packing: bool) -> Any:
    """transformers, PEFT, bitsandbytes and TRL."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    gpu = torch.cuda.is_available()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        model,
        quantization_config=quantization,
        dtype=torch.bfloat16,
        device_map={"": 0} if gpu else "cpu",
        attn_implementation="sdpa",
    )
    return SFTTrainer(
        model=loaded,
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=rows,
        peft_config=LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES, task_type="CAUSAL_LM"),
        args=SFTConfig(
            **settings(folder, steps, gpu=gpu),
            packing=packing,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        ),
    )


def notebook(model: Path, rows: Any, folder: Path, steps: int) -> Any:
    """Unsloth, as its notebooks do it."""
    import unsloth  # isort: skip - it patches the libraries below
    import torch
    from trl import SFTConfig, SFTTrainer

    loaded, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(model), max_seq_length=ROW_TOKENS, load_in_4bit=True, use_exact_model_name=True
    )
    loaded = unsloth.FastLanguageModel.get_peft_model(
        loaded,
        r=RANK,
        target_modules=MODULES,
        lora_alpha=RANK,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=3407,
    )
    return SFTTrainer(
        model=loaded,
        processing_class=tokenizer,
        train_dataset=rows,
        args=SFTConfig(**settings(folder, steps, gpu=torch.cuda.is_available())),
    )


RECIPES = {
    "hf-padded": lambda *given: hugging_face(*given, packing=False),
    "hf-packed": lambda *given: hugging_face(*given, packing=True),
    "unsloth-notebook": notebook,
}


def print_steps(trainer: Any) -> None:
    """Have the trainer print its steps, and nothing else."""
    from transformers import PrinterCallback, TrainerCallback

    class PrintSteps(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            del args, control
            if "loss" in values["logs"]:
                time = datetime.now(UTC).isoformat(timespec="milliseconds")
                print(
                    json.dumps({"time": time, "message": "Step", "step": state.global_step} | values["logs"]),
                    flush=True,
                )

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(PrintSteps())


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    for name in ("--model", "--rows", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.recipe == "unsloth-notebook":
        import unsloth  # noqa: F401 - it must be the first of these libraries
    from datasets import Dataset

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = Dataset.from_parquet(str(arguments.rows), cache_dir=str(arguments.folder / "datasets"))
    trainer = RECIPES[arguments.recipe](arguments.model, rows, arguments.folder, arguments.steps)
    print_steps(trainer)
    trainer.train()


if __name__ == "__main__":
    main()
