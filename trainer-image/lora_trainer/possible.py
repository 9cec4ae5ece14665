"""Settings that cannot be honoured, refused before anything is fetched. Pure.

The API server cannot refuse them: whether a class has a GPU stands in another object.
"""

from __future__ import annotations

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.errors import TrainerError


def require_possible(run: RunFile) -> None:
    """Raise ConfigInvalid that names the first setting which does not go with the run's class."""
    if run.accelerator.kind is AcceleratorKind.GPU:
        return
    grpo = run.training.grpo
    needs_gpu = (
        (grpo is not None and grpo.fast_inference, "training.grpo.fastInference", "generates with vLLM"),
        (run.lora.loftq_config is not None, "lora.loftqConfig", "is computed on a GPU by PEFT"),
        (run.model.dtype == "float16", "model.dtype", "float16 would be replaced by a slower type"),
    )
    for asked, field, why in needs_gpu:
        if asked:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"{field} needs a GPU ({why}), and the run's class is a CPU class.",
                f"Remove {field}, or choose a class with a GPU.",
            )
