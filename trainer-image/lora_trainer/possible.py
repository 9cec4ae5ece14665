"""Refuses settings that the run's class cannot support, before anything is fetched. Pure.

The API server cannot refuse them, because the class is another object.
"""

from __future__ import annotations

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.errors import TrainerError


def require_possible(run: RunFile) -> None:
    """Raise ConfigInvalid that names the first setting which the run's class does not support."""
    if run.accelerator.kind is AcceleratorKind.GPU:
        return
    grpo = run.training.grpo
    needs_gpu = (
        (grpo is not None and grpo.fast_inference, "training.grpo.fastInference", "vLLM generates on a GPU"),
        (run.lora.loftq_config is not None, "lora.loftqConfig", "PEFT computes it on a GPU"),
        (run.model.dtype == "float16", "model.dtype", "a CPU would replace float16 by a slower type"),
    )
    for asked, field, why in needs_gpu:
        if asked:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"{field} needs a GPU ({why}), but the run's class is a CPU class.",
                f"Remove {field}, or choose a class with a GPU.",
            )
