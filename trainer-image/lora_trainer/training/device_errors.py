"""torch's memory and device errors as endings with the numbers that matter. Recognises and words them, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.progress import Phase
from lora_trainer.contract.run import RunFile
from lora_trainer.errors import TrainerError
from lora_trainer.model import peak_memory_gib
from lora_trainer.telemetry import ProgressServer

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""torch's error for host memory is a plain RuntimeError that names it."""


@contextmanager
def explained(run: RunFile, chosen: Chosen, progress: ProgressServer) -> Iterator[None]:
    """Raises TrainerError in place of torch's own errors: DoesNotFit, OutOfMemory, GpuUnhealthy."""
    import torch

    try:
        yield
    except torch.AcceleratorError as error:
        where = _where(progress)
        raise TrainerError(
            ExitCode.GpuUnhealthy,
            f"The GPU failed ({str(error).splitlines()[0]}) {where}.",
            "Check the node's GPU; the next attempt resumes from the last checkpoint.",
        ) from error
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or CPU_ALLOCATOR in str(error)
        if not known:
            raise
        raise _out_of_memory(run, chosen, progress) from error


def _out_of_memory(run: RunFile, chosen: Chosen, progress: ProgressServer) -> TrainerError:
    class_ = run.accelerator
    held = f"{peak_memory_gib(class_.kind):.1f} GiB" + (f" of {class_.memory_gib:g}" if class_.memory_gib else "")
    where, rows = _where(progress), chosen.per_device_train_batch_size
    match progress.progress.phase:
        case Phase.LOADING:
            four_bit = "" if run.model.in_4bit else "set model.quantization: NF4, "
            return TrainerError(
                ExitCode.DoesNotFit,
                f"Memory ran out {where}: the model does not fit ({held} held).",
                f"To make it fit, {four_bit}choose a smaller model or a class with more memory.",
            )
        case Phase.EVALUATING:
            return TrainerError(
                ExitCode.OutOfMemory,
                f"Memory ran out {where} with one row per forward pass ({held} held).",
                "Lower model.maxSeqLength, or choose a class with more memory.",
            )
        case _:
            return TrainerError(
                ExitCode.OutOfMemory,
                f"Memory ran out {where} with {rows} rows per forward pass ({held} held).",
                "Lower model.maxSeqLength or training.perDeviceTrainBatchSize, or choose a class with more memory.",
            )


def _where(progress: ProgressServer) -> str:
    now = progress.progress
    match now.phase:
        case Phase.LOADING:
            return "while the model was loaded"
        case Phase.EVALUATING:
            return "in the evaluation after training"
        case _:
            return f"after step {now.step} of {now.total_steps}"
