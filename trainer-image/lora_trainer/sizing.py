"""How a run is cut into micro-batches so that it fits the class's memory and fills the accelerator. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, lcm

from lora_trainer.contract.batch import halvings, shrunk_batch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen, Estimate
from lora_trainer.contract.run import EIGHT_BIT_OPTIMIZERS, FASTEST_OPTIMIZER, AcceleratorKind, RunFile
from lora_trainer.contract.spec.training import Method, TrainingSpec
from lora_trainer.errors import TrainerError
from lora_trainer.memory import (
    GIB,
    MORE_BYTES_OF_32_BIT_MOMENTS,
    generation_bytes,
    memory_bytes,
    needed_bytes,
)
from lora_trainer.model_shape import ModelShape
from lora_trainer.packing import DataSize, choose_packing, packed_sequences
from lora_trainer.step_time import relative_step_time

EFFECTIVE_BATCH = 8
"""Rows of model.maxSeqLength tokens per optimizer step where the user names none."""
CPU_MICRO_BATCH = 1
"""Rows per forward pass on a CPU. More only adds padding and memory: with SmolLM2 and Spider's rows, 2 rows cost 20 %
more processor time per step and 3.5 GiB instead of 2.8."""
TOKENS_THAT_FILL_A_GPU = 8192
"""Where no layer can be kept, or nobody says how much memory there is, more per forward pass is little faster."""
DATALOADER_WORKERS = 2
"""Beside a GPU, which waits 6 ms a step for a batch of 16k tokens where the training process makes it."""
SEQUENCES_PER_ROW = {Method.SFT: 1, Method.DPO: 2, Method.GRPO: 1}
"""Sequences that go through the model for one row: of a pair, both answers."""
CHECKPOINTS_PER_RUN = 20
EVALUATIONS_PER_RUN = 10


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How many rows go through the model at once, and of how many layers the activations are kept for them."""

    micro_batch: int
    kept_layers: int


Predict = Callable[[Cut], float]
"""Bytes that a class must offer for a cut."""
Sized = tuple[Estimate, Chosen]


def size_run(run: RunFile, shape: ModelShape, data: DataSize) -> Sized:
    """Fill in every number that the user left unset, so that the run fits the class's memory. Raises DoesNotFit."""
    if run.model.load_in_4bit != "auto":
        return _size(run, shape, data)
    four = _size(run.loaded_in_4bit(True), shape, data)
    try:
        sixteen = _size(run.loaded_in_4bit(False), shape, data)
    except TrainerError:
        sixteen = None
    why, (estimate, chosen) = _precision(four, sixteen, run, shape)
    return estimate, chosen.model_copy(update={"reasons": (why, *chosen.reasons)})


def _precision(four: Sized, sixteen: Sized | None, run: RunFile, shape: ModelShape) -> tuple[str, Sized]:
    """16 bits where they cost nothing but memory, and why. They are no faster: on an H200 Llama 8B's shape trained at
    15 973 tokens per second in 16 bits, at 15 958 in 4 (torch 2.11)."""
    if shape.quantized:
        return "loadIn4bit true: the model's weights come quantised.", four
    if _offered_gib(run) is None:
        return "loadIn4bit true: the class names no memory.", four
    if sixteen is None or _cut(sixteen) != _cut(four):
        return f"loadIn4bit true: 16-bit weights leave too little of {run.accelerator.memory_gib:g} GiB.", four
    return "loadIn4bit false: the class's memory has room for 16-bit weights beside all else.", sixteen


def _cut(sized: Sized) -> tuple[int, int, str]:
    """What less memory takes away."""
    chosen = sized[1]
    return chosen.per_device_train_batch_size, chosen.kept_layers, chosen.optim


def _size(run: RunFile, shape: ModelShape, data: DataSize) -> Sized:
    packed = choose_packing(run, data, positions=shape.positions)
    packing_length = packed.length
    row_tokens = packing_length or min(run.model.max_seq_length, _longest(run, data))
    group, processes = _group(run.training), run.resources.processes
    effective = group * max(1, EFFECTIVE_BATCH // group)
    if packing_length:
        effective = EFFECTIVE_BATCH * run.model.max_seq_length // packing_length
    effective = max(1, effective // processes)  # each GPU's share

    def peak(cut: Cut) -> float:
        tokens = _tokens_per_pass(run, cut, row_tokens=row_tokens)
        # The processes of a CPU pod share its memory, each with a model of its own; a GPU has its own.
        sharing = run.resources.gpus if run.accelerator.kind is AcceleratorKind.CPU else 1
        training = memory_bytes(shape, run, tokens=tokens, kept_layers=cut.kept_layers, loader=packed.loader)
        if not generates_itself(run.training):
            return sharing * training
        named = run.training.gradient_accumulation_steps
        answers = cut.micro_batch * named if named else max(cut.micro_batch, effective)
        return sharing * max(training, generation_bytes(shape, run, sequences=answers, tokens=row_tokens))

    def needed(cut: Cut) -> float:
        return needed_bytes(peak(cut), run.accelerator.kind)

    cut = cut_to_fit(run, needed, shape=shape, row_tokens=row_tokens, effective=effective)
    accumulation = _accumulation(run.training, micro_batch=cut.micro_batch, effective=effective)
    units = packed_sequences(data.lengths, length=packing_length) if packing_length else data.rows * group
    max_steps = _max_steps(run.training, units=units, effective_batch=cut.micro_batch * accumulation * processes)
    optim, moments = _optim(run, shape, peak(cut))
    predicted = peak(cut) + moments
    workers = _dataloader_workers(run)
    estimate = Estimate(
        memory_gib=round(predicted / GIB, 2),
        fits=True,
        micro_batch=cut.micro_batch,
        accumulation=accumulation,
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
        load_in_4bit=bool(run.model.load_in_4bit),
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
    """Whether the model writes the answers of a whole step at once: GRPO, where vLLM does not do it in a share of its
    own."""
    return training.grpo is not None and not training.grpo.fast_inference


def cut_to_fit(run: RunFile, needed: Predict, *, shape: ModelShape, row_tokens: int, effective: int) -> Cut:
    """The fastest cut that fits the accelerator. Raises DoesNotFit."""
    offered, layers = _offered_gib(run), shape.layers

    def fits(cut: Cut) -> bool:
        return offered is None or needed(cut) <= offered * GIB

    def step_time(cut: Cut) -> float:
        tokens = _tokens_per_pass(run, cut, row_tokens=row_tokens)
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


def _tokens_per_pass(run: RunFile, cut: Cut, *, row_tokens: int) -> int:
    return cut.micro_batch * SEQUENCES_PER_ROW[run.training.method] * row_tokens


def _keeping_is_open(run: RunFile) -> bool:
    """Whether memory decides how many layers are kept. What is left beside GRPO's training holds its answers."""
    told = run.accelerator.memory_gib is not None
    return told and run.gradient_checkpointing == "unsloth" and run.training.method is not Method.GRPO


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


def _offered_gib(run: RunFile) -> float | None:
    """Memory for training: the class's, without the share that vLLM takes."""
    grpo, offered = run.training.grpo, run.accelerator.memory_gib
    if offered is None or grpo is None or not grpo.fast_inference:
        return offered
    return offered * (1 - grpo.vllm_memory_share)


def _longest(run: RunFile, data: DataSize) -> int:
    """Tokens of the longest sequence: an answer follows each prompt of GRPO."""
    grpo = run.training.grpo
    return data.longest + (grpo.max_completion_length if grpo else 0)


def _group(training: TrainingSpec) -> int:
    """Rows that one row of the data set becomes."""
    return training.grpo.num_generations if training.grpo else 1


def _accumulation(training: TrainingSpec, *, micro_batch: int, effective: int) -> int:
    """The user's accumulation, or what makes about `effective` rows. Raises ConfigInvalid.

    All answers to a prompt belong into one step, as they are compared with each other.
    """
    group = _group(training)
    if named := training.gradient_accumulation_steps:
        if micro_batch * named % group:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"A step of {micro_batch} x {named} answers (micro-batch x training.gradientAccumulationSteps) does not"
                f" hold whole groups of training.grpo.numGenerations {group}.",
                "Make the product a multiple of training.grpo.numGenerations, or leave the accumulation unset.",
            )
        return named
    whole_groups = lcm(micro_batch, group) // micro_batch
    return whole_groups * max(1, effective // (micro_batch * whole_groups))


def _least_kept(run: RunFile, layers: int) -> int:
    return layers if run.gradient_checkpointing == "disabled" else 0


def shrink(chosen: Chosen, oom_shrinks: int) -> Chosen:
    """What was chosen, with the micro-batch halved `oom_shrinks` times. Raises DoesNotFit below one row."""
    micro_batch, accumulation = chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps
    if oom_shrinks > halvings(micro_batch):
        raise TrainerError(
            ExitCode.DoesNotFit,
            "The run ran out of memory with one row per forward pass: there is nothing left to shrink.",
            "Lower model.maxSeqLength, or choose a class with more memory.",
        )
    micro_batch, accumulation = shrunk_batch(micro_batch, accumulation, times=oom_shrinks)
    update = {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    return chosen.model_copy(update=update)


def _does_not_fit(run: RunFile, cut: Cut, *, row_tokens: int, gib: float) -> TrainerError:
    rows = "one row" if cut.micro_batch == 1 else f"{cut.micro_batch} rows"
    named = "training.perDeviceTrainBatchSize or " if run.training.per_device_train_batch_size else ""
    sixteen_bit = "" if run.model.load_in_4bit else " set model.loadIn4bit: true,"
    return TrainerError(
        ExitCode.DoesNotFit,
        f"The run needs about {gib:.1f} GiB for {rows} of {row_tokens} tokens, and the class offers"
        f" {run.accelerator.memory_gib:g} GiB.",
        f"Lower {named}model.maxSeqLength,{sixteen_bit} choose a smaller model or a class with more memory.",
        needed_memory_gib=round(gib, 1),
    )


def _max_steps(training: TrainingSpec, *, units: int, effective_batch: int) -> int:
    if training.max_steps:
        return training.max_steps
    return max(1, ceil(units * (training.num_train_epochs or 1) / effective_batch))


def _eval_steps(training: TrainingSpec, *, max_steps: int) -> int | None:
    if training.eval_steps or not training.early_stopping:
        return training.eval_steps
    return max(1, max_steps // EVALUATIONS_PER_RUN)


def _dataloader_workers(run: RunFile) -> int:
    # GRPO's batches are prompts, and its answers come from the model.
    on_gpu = run.accelerator.kind is AcceleratorKind.GPU
    return DATALOADER_WORKERS if on_gpu and run.training.method is not Method.GRPO else 0


def _workers_reason(workers: int) -> tuple[str, ...]:
    return (f"dataloaderWorkers {workers}: the GPU waits for no batch.",) if workers else ()


def _optim_is_open(run: RunFile) -> bool:
    """Whether the user names none, and the accelerator has the one that takes the least memory."""
    return run.training.optim is None and run.optim in EIGHT_BIT_OPTIMIZERS


def _optim(run: RunFile, shape: ModelShape, peak: float) -> tuple[str, float]:
    """The optimizer, and what its moments take beside a predicted peak: the fastest where it is open and memory is
    left."""
    more = MORE_BYTES_OF_32_BIT_MOMENTS * shape.lora_parameters(run.lora)
    offered = _offered_gib(run)
    if not _optim_is_open(run) or offered is None:
        return run.optim, 0
    fits = needed_bytes(peak + more, run.accelerator.kind) <= offered * GIB
    return (FASTEST_OPTIMIZER, more) if fits else (run.optim, 0)


def _optim_reason(run: RunFile, optim: str) -> tuple[str, ...]:
    if not _optim_is_open(run):
        return ()
    if optim == FASTEST_OPTIMIZER:
        return (f"optim {optim}: it is the fastest, and there is room for its moments of 32 bits.",)
    why = "the class names no memory" if _offered_gib(run) is None else "moments of 32 bits do not fit beside all else"
    return (f"optim {optim}: {why}.",)


def _cut_reason(run: RunFile, cut: Cut, peak: float, *, layers: int, row_tokens: int) -> str:
    offered = run.accelerator.memory_gib
    room = f"of the class's {offered:g} GiB" if offered is not None else "and the class names no memory"
    return (
        f"micro-batch {cut.micro_batch} x {row_tokens} tokens, {cut.kept_layers} of {layers} layers kept: that needs"
        f" {needed_bytes(peak, run.accelerator.kind) / GIB:.1f} GiB {room}."
    )


def _dtype(run: RunFile) -> str:
    return run.model.dtype or "bfloat16"
