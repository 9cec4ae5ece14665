"""Chooses every number that a run leaves unset, so that it fits the class's memory and uses it well. Pure."""

from __future__ import annotations

from math import ceil

from lora_trainer.contract.outcome import Chosen, Estimate
from lora_trainer.contract.run import EIGHT_BIT_OPTIMIZERS, FASTEST_OPTIMIZER, AcceleratorKind, RunFile
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.contract.spec.training import Method, TrainingSpec
from lora_trainer.errors import TrainerError
from lora_trainer.memory import (
    GIB,
    MORE_BYTES_OF_32_BIT_MOMENTS,
    generation_bytes,
    memory_bytes,
    needed_bytes,
)
from lora_trainer.micro_batch import Cut, accumulation_for, cut_to_fit, group_size, offered_gib, tokens_per_pass
from lora_trainer.model_shape import ModelShape
from lora_trainer.packing import DataSize, choose_packing, pack

EFFECTIVE_BATCH = 8
"""Rows of model.maxSeqLength tokens per optimizer step where the user names none."""
DATALOADER_WORKERS = 2
"""Beside a GPU, which waits 6 ms a step for a batch of 16k tokens where the training process makes it."""
CHECKPOINTS_PER_RUN = 20
EVALUATIONS_PER_RUN = 10

Sized = tuple[Estimate, Chosen]


def size_run(run: RunFile, shape: ModelShape, data: DataSize) -> Sized:
    """Fill in every number that the user left unset, so that the run fits the class's memory. Raises DoesNotFit."""
    if run.model.quantization is not Quantization.AUTO:
        return _size(run, shape, data)
    four = _size(run.quantized(Quantization.NF4), shape, data)
    try:
        sixteen = _size(run.quantized(Quantization.NONE), shape, data)
    except TrainerError:
        sixteen = None
    why, (estimate, chosen) = _precision(four, sixteen, run, shape)
    return estimate, chosen.model_copy(update={"reasons": (why, *chosen.reasons)})


def _precision(four: Sized, sixteen: Sized | None, run: RunFile, shape: ModelShape) -> tuple[str, Sized]:
    """16-bit weights where they reduce no other choice, and why. They are no faster: on an H200, Llama 8B's shape
    trained at 15 973 tokens per second in 16 bits, and at 15 958 in 4 bits (torch 2.11)."""
    if shape.quantized:
        return "quantization NF4: the model's weights are already quantised.", four
    if offered_gib(run) is None:
        return "quantization NF4: the class does not state its memory.", four
    if sixteen is None or _cut(sixteen) != _cut(four):
        return f"quantization NF4: 16-bit weights leave too little of {run.accelerator.memory_gib:g} GiB.", four
    return "quantization None: 16-bit weights fit the class's memory and reduce no other choice.", sixteen


def _cut(sized: Sized) -> tuple[int, int, str]:
    """The choices that less memory reduces."""
    chosen = sized[1]
    return chosen.per_device_train_batch_size, chosen.kept_layers, chosen.optim


def _size(run: RunFile, shape: ModelShape, data: DataSize) -> Sized:
    packed = choose_packing(run, data, shape=shape)
    packing_length = packed.length
    row_tokens = packing_length or min(run.model.max_seq_length, _longest(run, data))
    group, processes = group_size(run.training), run.parallelism.processes
    effective = group * max(1, EFFECTIVE_BATCH // group)
    if packing_length:
        effective = EFFECTIVE_BATCH * run.model.max_seq_length // packing_length
    effective = max(1, effective // processes)  # each GPU's share

    def peak(cut: Cut) -> float:
        tokens = tokens_per_pass(run, cut, row_tokens=row_tokens)
        # The processes of a CPU pod share its memory, and each has its own model. Each GPU has its own memory.
        sharing = run.parallelism.gpus if run.accelerator.kind is AcceleratorKind.CPU else 1
        training = memory_bytes(shape, run, tokens=tokens, kept_layers=cut.kept_layers, loader=packed.loader)
        if not generates_itself(run.training):
            return sharing * training
        named = run.training.gradient_accumulation_steps
        answers = cut.micro_batch * named if named else max(cut.micro_batch, effective)
        return sharing * max(training, generation_bytes(shape, run, sequences=answers, tokens=row_tokens))

    def needed(cut: Cut) -> float:
        return needed_bytes(peak(cut), run.accelerator.kind)

    cut = cut_to_fit(run, needed, shape=shape, row_tokens=row_tokens, effective=effective)
    accumulation = accumulation_for(run.training, micro_batch=cut.micro_batch, effective=effective)
    units = data.rows * group
    if packing_length:
        units = len(pack(data.lengths, length=packing_length, seed=run.training.seed))
    max_steps = _max_steps(run.training, batches=ceil(units / (cut.micro_batch * processes)), accumulation=accumulation)
    optim, moments = _optim(run, shape, peak(cut))
    predicted = peak(cut) + moments
    workers = _dataloader_workers(run)
    estimate = Estimate(
        memory_gib=round(predicted / GIB, 2),
        fits=True,
        per_device_train_batch_size=cut.micro_batch,
        gradient_accumulation_steps=accumulation,
        kept_layers=cut.kept_layers,
    )
    chosen = Chosen(
        max_steps=max_steps,
        per_device_train_batch_size=cut.micro_batch,
        gradient_accumulation_steps=accumulation,
        kept_layers=cut.kept_layers,
        learning_rate=run.training.peak_learning_rate,
        save_steps=run.training.save_steps or max(1, max_steps // CHECKPOINTS_PER_RUN),
        eval_steps=_eval_steps(run.training, max_steps=max_steps),
        packing=packing_length is not None,
        packing_length=packing_length,
        optim=optim,
        dtype=_dtype(run),
        quantization=run.model.quantization,
        loader=packed.loader,
        dataloader_workers=workers,
        reasons=(
            *packed.reasons,
            _cut_reason(run, cut, predicted, layers=shape.layers, row_tokens=row_tokens),
            *_optim_reason(run, optim),
            *_workers_reason(workers),
        ),
    )
    return estimate, chosen


def generates_itself(training: TrainingSpec) -> bool:
    """Whether the model itself generates the answers of a whole step at once: GRPO without vLLM, which would have its
    own share of memory."""
    return training.grpo is not None and not training.grpo.fast_inference


def _longest(run: RunFile, data: DataSize) -> int:
    """Tokens of the longest sequence: an answer follows each prompt of GRPO."""
    grpo = run.training.grpo
    return data.longest + (grpo.max_completion_length if grpo else 0)


def _max_steps(training: TrainingSpec, *, batches: int, accumulation: int) -> int:
    """Optimizer steps, where an epoch has so many micro-batches. Its last step takes what is left of it: transformers'
    trainer begins no step in one epoch that it ends in the next."""
    steps_per_epoch = ceil(batches / accumulation)
    return training.max_steps or ceil(steps_per_epoch * (training.num_train_epochs or 1))


def _eval_steps(training: TrainingSpec, *, max_steps: int) -> int | None:
    if training.eval_steps or not training.early_stopping:
        return training.eval_steps
    return max(1, max_steps // EVALUATIONS_PER_RUN)


def _dataloader_workers(run: RunFile) -> int:
    # GRPO's batches are prompts, and its answers come from the model.
    on_gpu = run.accelerator.kind is AcceleratorKind.GPU
    return DATALOADER_WORKERS if on_gpu and run.training.method is not Method.GRPO else 0


def _workers_reason(workers: int) -> tuple[str, ...]:
    return (f"dataloaderWorkers {workers}: the GPU does not wait for batches.",) if workers else ()


def _optim_is_open(run: RunFile) -> bool:
    """Whether the user sets no optimizer, and the default is one with 8-bit moments."""
    return run.training.optim is None and run.optim in EIGHT_BIT_OPTIMIZERS


def _optim(run: RunFile, shape: ModelShape, peak: float) -> tuple[str, float]:
    """The optimizer, and the memory of its moments in addition to the predicted peak: the fastest optimizer where the
    user sets none and memory is left."""
    more = MORE_BYTES_OF_32_BIT_MOMENTS * shape.lora_parameters(run.lora)
    offered = offered_gib(run)
    if not _optim_is_open(run) or offered is None:
        return run.optim, 0
    fits = needed_bytes(peak + more, run.accelerator.kind) <= offered * GIB
    return (FASTEST_OPTIMIZER, more) if fits else (run.optim, 0)


def _optim_reason(run: RunFile, optim: str) -> tuple[str, ...]:
    if not _optim_is_open(run):
        return ()
    if optim == FASTEST_OPTIMIZER:
        return (f"optim {optim}: it is the fastest, and its 32-bit moments fit the class's memory.",)
    why = "the class does not state its memory" if offered_gib(run) is None else "32-bit moments do not fit"
    return (f"optim {optim}: {why}.",)


def _cut_reason(run: RunFile, cut: Cut, peak: float, *, layers: int, row_tokens: int) -> str:
    offered = run.accelerator.memory_gib
    room = f"of the class's {offered:g} GiB" if offered is not None else "and the class does not state its memory"
    return (
        f"micro-batch {cut.micro_batch} x {row_tokens} tokens, {cut.kept_layers} of {layers} layers kept: this needs"
        f" {needed_bytes(peak, run.accelerator.kind) / GIB:.1f} GiB {room}."
    )


def _dtype(run: RunFile) -> str:
    return run.model.dtype or "bfloat16"
