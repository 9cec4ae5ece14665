"""How the adapter is trained."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field

from lora_trainer.contract.spec.rewards import RewardSpec
from lora_trainer.contract.wire import WireModel

LARGEST_SEED = 2**31 - 1


class Method(StrEnum):
    """Training methods."""

    SFT = "SFT"
    """Supervised fine-tuning: learn the answers of the rows."""
    DPO = "DPO"
    """Direct preference optimisation: learn to prefer the chosen answer of each row to the rejected one."""
    GRPO = "GRPO"
    """Group relative policy optimisation: answer each prompt several times and learn from the answers' rewards."""


DEFAULT_LEARNING_RATES: Mapping[Method, float] = {Method.SFT: 2e-4, Method.DPO: 5e-6, Method.GRPO: 5e-6}


class TrainOn(StrEnum):
    """Tokens of a conversation that count in the loss."""

    ANSWERS = "Answers"
    LAST_ANSWER = "LastAnswer"
    EVERYTHING = "Everything"


class SftSpec(WireModel):
    """Settings of supervised fine-tuning."""

    train_on: TrainOn = TrainOn.ANSWERS
    """Tokens that count in the loss: Answers (all assistant turns), LastAnswer (the last one) or Everything. Rows of
    plain text always train on everything."""


class DpoSpec(WireModel):
    """Settings of direct preference optimisation (TRL's DPOConfig). The reference is the base model without the
    adapter."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How closely the adapter stays to the base model: a higher value stays closer."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"] = "sigmoid"
    """Loss of a pair of answers. robust expects some preferences to be wrong: see labelSmoothing."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """Share of preferences that lossType robust assumes to be swapped."""


class GrpoSpec(WireModel):
    """Settings of group relative policy optimisation (TRL's GRPOConfig)."""

    rewards: Annotated[
        tuple[RewardSpec, ...],
        Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ]
    """Rewards that judge an answer. Its total is the sum of all rewards, each multiplied by its weight."""
    num_generations: Annotated[int, Field(ge=2, le=64)] = 8
    """Number of answers to each prompt, which are compared with each other. The rows of an optimizer step (micro-batch
    times accumulation) are answers, and their number must be a multiple of this."""
    max_prompt_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Longest prompt in tokens. dataset.overlength (Drop or Fail) says what happens to longer ones."""
    max_completion_length: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Tokens after which an answer is cut."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature of the answers."""
    beta: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the KL divergence from the base model, which is subtracted from the reward; 0 turns it off."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far one step may move the probability of a token: between 1 - epsilon and 1 + epsilon."""
    fast_inference: bool = False
    """Generate with vLLM. Needs a GPU class with the trainer image that has vLLM."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Largest adapter rank that vLLM reserves memory for. Unset: lora.r. Needs fastInference."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the GPU's memory that vLLM may take. Unset: 0.5. Needs fastInference."""

    @property
    def vllm_memory_share(self) -> float:
        """gpuMemoryUtilization as it is used."""
        return self.gpu_memory_utilization if self.gpu_memory_utilization is not None else 0.5


class EarlyStoppingSpec(WireModel):
    """Conditions for ending training before its last step."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without an improvement that end training."""
    min_delta: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Nats per token by which a held-out loss must be below the lowest one so far to count as an improvement."""


class TrainingSettings(WireModel):
    """Settings of training for which a class may set defaults."""

    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps. Set this or numTrainEpochs."""
    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the dataset. Set this or maxSteps. Both unset: 1 epoch."""
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Micro-batch: rows per device and forward pass. Unset: what fits the class's memory."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Micro-batches per optimizer step. Unset: chosen so that the effective batch is 8 rows."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate. Unset: 0.0002 for SFT, 0.000005 for the other methods."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Learning-rate schedule after warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps that warm up from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Maximum norm of the gradients, for gradient clipping."""
    optim: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused", "adamw_torch"] | None = None
    """Optimizer. Unset: adamw_torch_fused, the fastest, where the class's memory has room for it, else adamw_8bit,
    which saves 6 bytes per parameter of the adapter. On a CPU class adamw_torch_fused replaces the 8-bit ones."""
    packing: bool | None = None
    """Pack several rows into one sequence without attention between them; SFT only. Unset: on where the accelerator
    supports it and rows fill less than 90 % of a sequence on average."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 3407
    """Seed for the adapter's initial weights, the order of rows, and dropout."""
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Optimizer steps between evaluations on the held-out rows; the last step is evaluated too. The adapter of the step
    with the lowest held-out loss (with DPO, log loss of the preferences) is published. Unset: about ten evaluations per
    run with earlyStopping, none without."""
    early_stopping: EarlyStoppingSpec | None = None
    """End training when the held-out loss no longer improves. Unset: all steps are trained."""
    save_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Optimizer steps between checkpoints. Unset: about twenty checkpoints per run. A checkpoint is also made when the
    pod is asked to stop. A checkpoint that is due while the previous one is still being uploaded is made at the first
    step after the upload."""
    save_minutes: Annotated[int, Field(ge=1, le=1440)] = 10
    """A checkpoint is also made when the last one is this many minutes old."""
    save_total_limit: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of newest checkpoints kept in the bucket. The best one is kept in addition, and also the one before where
    no later loss has confirmed any of them yet."""


class TrainingSpec(TrainingSettings):
    """How the adapter is trained. Most names are those of TRL and transformers."""

    method: Method = Method.SFT
    """Training method."""
    sft: SftSpec | None = None
    """Settings of method SFT."""
    dpo: DpoSpec | None = None
    """Settings of method DPO."""
    grpo: GrpoSpec | None = None
    """Settings of method GRPO, which needs them."""

    @property
    def peak_learning_rate(self) -> float:
        """learningRate, or the method's default."""
        return self.learning_rate or DEFAULT_LEARNING_RATES[self.method]

    @property
    def sft_settings(self) -> SftSpec:
        """`sft`, or its defaults."""
        return self.sft or SftSpec()

    @property
    def dpo_settings(self) -> DpoSpec:
        """`dpo`, or its defaults."""
        return self.dpo or DpoSpec()

    def resolved(self) -> TrainingSpec:
        """The same with the defaults of its method written out."""
        settings: dict[str, Any] = {"learning_rate": self.peak_learning_rate}
        match self.method:
            case Method.SFT:
                settings["sft"] = self.sft_settings
            case Method.DPO:
                settings["dpo"] = self.dpo_settings
            case Method.GRPO:
                pass
            case _:
                assert_never(self.method)
        return self.model_copy(update=settings)
