"""Chooses a run's micro-batch, and for how many layers activations are kept. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

from lora_trainer.contract.batch import halvings, shrunk_batch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec.lora import GradientCheckpointing
from lora_trainer.contract.spec.training import Method, TrainingSpec
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB
from lora_trainer.model_shape import ModelShape
from lora_trainer.step_time import relative_step_time

CPU_MICRO_BATCH = 1
"""Rows per forward pass on a CPU. More only adds padding and memory: with SmolLM2 and Spider's rows, 2 rows cost 20 %
more processor time per step and 3.5 GiB instead of 2.8."""
TOKENS_THAT_FILL_A_GPU = 8192
"""Tokens per forward pass beyond which more are hardly faster, where no layer can be kept or memory is unknown."""
SEQUENCES_PER_ROW = {Method.SFT: 1, Method.DPO: 2, Method.GRPO: 1}
"""Sequences that go through the model for one row: a pair has two answers."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A micro-batch, and for how many layers its activations are kept."""

    micro_batch: int
    kept_layers: int


Predict = Callable[[Cut], float]
"""Bytes that a class must offer for a cut."""


def cut_to_fit(run: RunFile, needed: Predict, *, shape: ModelShape, row_tokens: int, effective: int) -> Cut:
    """The fastest cut that fits the accelerator. Raises DoesNotFit."""
    offered, layers = offered_gib(run), shape.layers

    def fits(cut: Cut) -> bool:
        return offered is None or needed(cut) <= offered * GIB

    def step_time(cut: Cut) -> float:
        tokens = tokens_per_pass(run, cut, row_tokens=row_tokens)
        return relative_step_time(shape, tokens=tokens, kept_layers=cut.kept_layers)

    sizes = _micro_batches(run, effective)
    if not _keeping_is_open(run) and _least_kept(run, layers) < layers:
        sizes = [rows for rows in sizes if rows == sizes[0] or rows * row_tokens < 2 * TOKENS_THAT_FILL_A_GPU]
    kept = {rows: _kept_layers(run, fits, rows=rows, layers=layers) for rows in sizes}
    cuts = [Cut(micro_batch=rows, kept_layers=most) for rows, most in kept.items() if most is not None]
    if not cuts:
        smallest = Cut(micro_batch=sizes[0], kept_layers=_least_kept(run, layers))
        raise _does_not_fit(run, smallest, row_tokens=row_tokens, gib=needed(smallest) / GIB)
    return min(cuts, key=step_time)


def _keeping_is_open(run: RunFile) -> bool:
    """Whether memory decides how many layers are kept. In GRPO, the memory beside training holds the answers."""
    known = run.accelerator.memory_gib is not None
    return (
        known and run.gradient_checkpointing is GradientCheckpointing.UNSLOTH and run.training.method is not Method.GRPO
    )


def _micro_batches(run: RunFile, effective: int) -> Sequence[int]:
    """The user's micro-batch, or the powers of two that divide the effective batch."""
    if named := run.training.per_device_train_batch_size:
        return (named,)
    if run.accelerator.kind is AcceleratorKind.CPU:
        return (CPU_MICRO_BATCH,)
    most = max(1, effective // (run.training.gradient_accumulation_steps or 1))
    return [2**power for power in range(most.bit_length())]


def _kept_layers(run: RunFile, fits: Callable[[Cut], bool], *, rows: int, layers: int) -> int | None:
    """How many layers may be kept, or None where the micro-batch does not fit at all."""
    least = _least_kept(run, layers)
    if not fits(Cut(micro_batch=rows, kept_layers=least)):
        return None
    if not _keeping_is_open(run):
        return least
    return max(kept for kept in range(layers + 1) if fits(Cut(micro_batch=rows, kept_layers=kept)))


def _least_kept(run: RunFile, layers: int) -> int:
    return layers if run.gradient_checkpointing is GradientCheckpointing.DISABLED else 0


def _does_not_fit(run: RunFile, cut: Cut, *, row_tokens: int, gib: float) -> TrainerError:
    rows = "one row" if cut.micro_batch == 1 else f"{cut.micro_batch} rows"
    named = "training.perDeviceTrainBatchSize or " if run.training.per_device_train_batch_size else ""
    sixteen_bit = "" if run.model.in_4bit else " set model.quantization: NF4,"
    return TrainerError(
        ExitCode.DoesNotFit,
        f"The run needs about {gib:.1f} GiB for {rows} of {row_tokens} tokens, but the class offers"
        f" {run.accelerator.memory_gib:g} GiB.",
        f"Lower {named}model.maxSeqLength,{sixteen_bit} or choose a smaller model or a class with more memory.",
        needed_memory_gib=round(gib, 1),
    )


def tokens_per_pass(run: RunFile, cut: Cut, *, row_tokens: int) -> int:
    """Tokens that go through the model at once."""
    return cut.micro_batch * SEQUENCES_PER_ROW[run.training.method] * row_tokens


def offered_gib(run: RunFile) -> float | None:
    """Memory for training: the class's, without the share that vLLM takes."""
    grpo, offered = run.training.grpo, run.accelerator.memory_gib
    if offered is None or grpo is None or not grpo.fast_inference:
        return offered
    return offered * (1 - grpo.vllm_memory_share)


def group_size(training: TrainingSpec) -> int:
    """Rows that one row of the dataset becomes."""
    return training.grpo.num_generations if training.grpo else 1


def accumulation_for(training: TrainingSpec, *, micro_batch: int, effective: int) -> int:
    """The user's accumulation, or one that makes about `effective` rows. Raises ConfigInvalid.

    All answers to a prompt belong to the same step, because they are compared with each other.
    """
    group = group_size(training)
    if named := training.gradient_accumulation_steps:
        if micro_batch * named % group:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"A step has {micro_batch} x {named} answers (micro-batch x training.gradientAccumulationSteps), which"
                f" is not a multiple of training.grpo.numGenerations {group}.",
                "Set training.gradientAccumulationSteps so that it is a multiple, or leave it unset.",
            )
        return named
    whole_groups = lcm(micro_batch, group) // micro_batch
    return whole_groups * max(1, effective // (micro_batch * whole_groups))


def shrink(chosen: Chosen, oom_shrinks: int) -> Chosen:
    """`chosen` with the micro-batch halved `oom_shrinks` times. Raises DoesNotFit below one row."""
    micro_batch, accumulation = chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps
    if oom_shrinks > halvings(micro_batch):
        raise TrainerError(
            ExitCode.DoesNotFit,
            "The run ran out of memory with one row per forward pass, which cannot be reduced.",
            "Lower model.maxSeqLength, or choose a class with more memory.",
        )
    micro_batch, accumulation = shrunk_batch(micro_batch, accumulation, times=oom_shrinks)
    update = {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    return chosen.model_copy(update=update)
