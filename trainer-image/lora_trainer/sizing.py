"""How large a run is and how it is cut into micro-batches. Pure arithmetic on a model's shape; touches no file.

Memory of a 4-bit LoRA run with Unsloth, in bytes, for T tokens per micro-batch and hidden size H:
1.05 x (weights + 16 x LoRA parameters + 48 x H x T + 28.3 x H x T x layers without checkpointing
+ 4 x vocabulary x min(T, 2048)) + 1.5 GiB for the accelerator's context and fragmentation.
Measured on one H100 (8B model, r 16, 4 rows of 2048 tokens): torch allocated at most 7.4 GiB where 10.3 are predicted,
and 35.7 without checkpointing where 40.0 are. It errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, assert_never

from lora_trainer.contract.batch import halvings, shrunk_batch
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen, Estimate
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.contract.spec import DEFAULT_LEARNING_RATES, LoraSpec, Method, TrainingSpec
from lora_trainer.errors import TrainerError

GIB = 2**30
EFFECTIVE_BATCH = 8
"""Rows per optimizer step where the user names none."""
CPU_MICRO_BATCH = 1
"""Rows per forward pass on a CPU. More only adds padding and memory: with SmolLM2 and Spider's rows, 2 rows cost 20 %
more processor time per step and 3.5 GiB instead of 2.8."""
CHECKPOINTS_PER_RUN = 20
BYTES_PER_4BIT_PARAMETER = 0.5 + 1 / 64
"""NF4 and the scale of each block of 64."""
BYTES_PER_LORA_PARAMETER = 16
"""Weight, gradient and two Adam moments in 32 bits."""
BYTES_PER_TOKEN_AND_HIDDEN = 48
BYTES_PER_UNCHECKPOINTED_TOKEN_AND_HIDDEN = 28.3
LOGIT_CHUNK_TOKENS = 2048
FRAGMENTATION = 1.05
CONTEXT_BYTES = 1.5 * GIB


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The numbers of config.json that decide memory."""

    hidden: int
    layers: int
    vocabulary: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    experts: int
    tied_embeddings: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear layer of one decoder layer."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Parameters that 4-bit loading quantises."""
        return self.layers * sum(
            inputs * outputs * (self.experts if name in ("gate_proj", "up_proj", "down_proj") else 1)
            for name, (inputs, outputs) in self.projections.items()
        )

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding and, where it has its own, the output head."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    def lora_parameters(self, lora: LoraSpec) -> int:
        """Parameters of the adapter. A module that is not a known projection counts as hidden x hidden."""
        shapes = [self.projections.get(name, (self.hidden, self.hidden)) for name in lora.target_modules]
        return self.layers * lora.r * sum(inputs + outputs for inputs, outputs in shapes)


def model_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a config.json. Raises ModelUnsupported that names the missing fields."""
    text = config.get("text_config") or config
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if missing := [name for name in needed if not isinstance(text.get(name), int)]:
        raise TrainerError(
            ExitCode.ModelUnsupported,
            f"The model's config.json has no {', '.join(missing)}: it is not a decoder model of the Llama kind.",
            "Set model.name to a text-generation model such as Llama, Mistral, Qwen, Gemma or SmolLM.",
        )
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    return ModelShape(
        hidden=hidden,
        layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
        intermediate=text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_size=text.get("head_dim") or hidden // heads,
        experts=text.get("num_experts") or text.get("num_local_experts") or 1,
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def memory_bytes(shape: ModelShape, run: RunFile, *, micro_batch: int, row_tokens: int) -> float:
    """Predicted peak memory with `micro_batch` rows of `row_tokens` tokens per forward pass."""
    # A pair of answers is two sequences, both in one forward pass.
    sequences = 2 if run.training.method is Method.DPO else 1
    tokens = micro_batch * sequences * row_tokens
    per_linear = BYTES_PER_4BIT_PARAMETER if run.model.load_in_4bit else 2
    weights = per_linear * shape.linear_parameters + 2 * shape.embedding_parameters
    adapter = BYTES_PER_LORA_PARAMETER * shape.lora_parameters(run.lora)
    activations = BYTES_PER_TOKEN_AND_HIDDEN * shape.hidden * tokens
    if run.gradient_checkpointing == "disabled":
        activations += BYTES_PER_UNCHECKPOINTED_TOKEN_AND_HIDDEN * shape.hidden * tokens * shape.layers
    logits = 4 * shape.vocabulary * min(tokens, LOGIT_CHUNK_TOKENS)
    return FRAGMENTATION * (weights + adapter + activations + logits) + CONTEXT_BYTES


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """The numbers of the data set that decide the run's size."""

    rows: int
    """Rows trained on."""
    tokens: int
    """Their tokens."""
    longest: int
    """Tokens of the longest one."""


def size_run(run: RunFile, shape: ModelShape, data: DataSize, *, oom_shrinks: int = 0) -> tuple[Estimate, Chosen]:
    """Fill in every number that the user left unset, so that the run fits the class's memory.

    `oom_shrinks` halves the micro-batch that often and doubles the accumulation: the effective batch stays.
    Raises DoesNotFit.
    """
    sft = run.training.method is Method.SFT
    packing = sft and run.accelerator.kind is AcceleratorKind.GPU and run.training.packing is not False
    row_tokens = run.model.max_seq_length if packing else min(run.model.max_seq_length, data.longest)

    def gib(rows: int) -> float:
        return memory_bytes(shape, run, micro_batch=rows, row_tokens=row_tokens) / GIB

    def fits(rows: int) -> bool:
        return run.accelerator.memory_gib is None or gib(rows) <= run.accelerator.memory_gib

    micro_batch = _micro_batch(run, fits)
    accumulation = run.training.gradient_accumulation_steps or max(1, EFFECTIVE_BATCH // micro_batch)
    micro_batch, accumulation = _shrunk(micro_batch, accumulation, oom_shrinks)
    if not fits(micro_batch):
        raise _does_not_fit(run, micro_batch=micro_batch, row_tokens=row_tokens, gib=gib(micro_batch))
    units = ceil(data.tokens / run.model.max_seq_length) if packing else data.rows
    max_steps = _max_steps(run.training, units=units, effective_batch=micro_batch * accumulation)
    estimate = Estimate(
        memory_gib=round(gib(micro_batch), 2), fits=True, micro_batch=micro_batch, accumulation=accumulation
    )
    chosen = Chosen(
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=run.training.learning_rate or DEFAULT_LEARNING_RATES[run.training.method],
        save_steps=run.training.save_steps or max(1, max_steps // CHECKPOINTS_PER_RUN),
        packing=packing,
        optim=_optimizer(run),
        dtype=_dtype(run),
    )
    return estimate, chosen


def shrink(chosen: Chosen, oom_shrinks: int) -> Chosen:
    """What was chosen, with the micro-batch halved `oom_shrinks` times. Raises DoesNotFit below one row."""
    micro_batch, accumulation = _shrunk(
        chosen.per_device_train_batch_size, chosen.gradient_accumulation_steps, oom_shrinks
    )
    update = {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    return chosen.model_copy(update=update)


def _micro_batch(run: RunFile, fits: Callable[[int], bool]) -> int:
    """The user's micro-batch, or the largest power of two that fits and divides the effective batch."""
    if named := run.training.per_device_train_batch_size:
        return named
    match run.accelerator.kind:
        case AcceleratorKind.GPU:
            rows = EFFECTIVE_BATCH
        case AcceleratorKind.CPU:
            rows = CPU_MICRO_BATCH
        case _:
            assert_never(run.accelerator.kind)
    if accumulation := run.training.gradient_accumulation_steps:
        while rows > 1 and rows * accumulation > EFFECTIVE_BATCH:
            rows //= 2
    while rows > 1 and not fits(rows):
        rows //= 2
    return rows


def _shrunk(micro_batch: int, accumulation: int, shrinks: int) -> tuple[int, int]:
    if shrinks > halvings(micro_batch):
        raise TrainerError(
            ExitCode.DoesNotFit,
            "The run ran out of memory with one row per forward pass: there is nothing left to shrink.",
            "Lower model.maxSeqLength, or choose a class with more memory.",
        )
    return shrunk_batch(micro_batch, accumulation, times=shrinks)


def _does_not_fit(run: RunFile, *, micro_batch: int, row_tokens: int, gib: float) -> TrainerError:
    rows = "one row" if micro_batch == 1 else f"{micro_batch} rows"
    named = "training.perDeviceTrainBatchSize or " if run.training.per_device_train_batch_size else ""
    sixteen_bit = "" if run.model.load_in_4bit else " set model.loadIn4bit: true,"
    return TrainerError(
        ExitCode.DoesNotFit,
        f"The run needs about {gib:.1f} GiB for {rows} of {row_tokens} tokens, and the class offers"
        f" {run.accelerator.memory_gib:g} GiB.",
        f"Lower {named}model.maxSeqLength,{sixteen_bit} choose a smaller model or a class with more memory.",
    )


def _max_steps(training: TrainingSpec, *, units: int, effective_batch: int) -> int:
    if training.max_steps:
        return training.max_steps
    return max(1, ceil(units * (training.num_train_epochs or 1) / effective_batch))


def _optimizer(run: RunFile) -> str:
    eight_bit = run.training.optim in ("adamw_8bit", "paged_adamw_8bit")
    on_cpu = run.accelerator.kind is AcceleratorKind.CPU
    return "adamw_torch_fused" if on_cpu and eight_bit else run.training.optim


def _dtype(run: RunFile) -> str:
    return run.model.dtype or "bfloat16"
