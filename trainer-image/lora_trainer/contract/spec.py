"""The blocks of a fine-tune that users type: model, LoRA, training, data set, evaluation, output.

Defined once. The operator builds the CRD from these models and the trainer reads them in its run file. Names are
those of
Unsloth, PEFT and TRL in camelCase. A number that is unset is chosen by the trainer, which reports what it chose.
`json_schema_extra` carries what only the Kubernetes schema can say (CEL rules, list types).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, assert_never

from pydantic import ConfigDict, Field, StringConstraints

from lora_trainer.contract.wire import WireModel


def rule(expression: str, message: str, *, field: str | None = None) -> dict[str, str]:
    """One CEL rule of the CRD: `expression` must hold, else the API server refuses with `message`."""
    entry = {"rule": expression, "message": message}
    return entry | {"fieldPath": f".{field}"} if field else entry


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """A schema extra that carries CEL rules."""
    return {"x-kubernetes-validations": list(entries)}


_BUCKET = r"(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_CLAIM = r"pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_CONFIG_MAP = r"configmap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+"
_HUB_ID = r"[A-Za-z0-9][\w.-]*"
BUCKET_URI = rf"^{_BUCKET}(/[^\s?#]*)?$"
DATA_URI = (
    rf"^({_BUCKET}/[^\s?#]+|{_CLAIM}/[^\s?#]+|{_CONFIG_MAP}"
    rf"|hf://datasets/{_HUB_ID}/{_HUB_ID}(@[\w.%-]+)?(/[^\s?#]+)?)$"
)
MODEL_NAME = rf"^({_BUCKET}/[^\s?#]+|{_CLAIM}(/[^\s?#]+)?|{_HUB_ID}(/{_HUB_ID})?)$"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LARGEST_SEED = 2**31 - 1


class SecretKeyRef(WireModel):
    """One key of a Secret in the namespace of the fine-tune."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "token"
    """Key inside the Secret."""


class ModelSpec(WireModel):
    """The base model and how it is loaded (Unsloth's from_pretrained)."""

    name: Annotated[str, Field(min_length=1, max_length=512, pattern=MODEL_NAME)]
    """Base model: a Hugging Face id (meta-llama/Llama-3.2-3B-Instruct), a folder in a bucket (s3://bucket/models/llama,
    gs:// and az:// too) or a folder on a PersistentVolumeClaim of the namespace (pvc://claim/models/llama)."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Branch, tag or commit of a Hugging Face model. The commit it resolves to is pinned for the run and shown in
    status."""
    max_seq_length: Annotated[int, Field(ge=32, le=1_048_576)] = 2048
    """Longest row in tokens. Longer rows are treated as dataset.overlength says."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Compute type. Unset: bfloat16 where the accelerator has it, else float16."""
    load_in_4bit: Annotated[bool, Field(alias="loadIn4bit")] = True
    """Load the base model in 4-bit NF4 (QLoRA). False: 16-bit LoRA."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret key with the Hugging Face token for a private or gated model."""


class LoftqConfig(WireModel):
    """LoftQ initialisation of the LoRA matrices (PEFT's LoftQConfig). Needs a 16-bit base."""

    loftq_bits: Literal[4] = 4
    """Bits of the quantisation that LoftQ prepares for."""
    loftq_iter: Annotated[int, Field(ge=1, le=20)] = 1
    """Alternating LoftQ iterations."""


GradientCheckpointing = Literal["unsloth", "enabled", "disabled"]


class LoraSpec(WireModel):
    """The LoRA adapter (Unsloth's get_peft_model)."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of the adapter matrices. Higher learns more and costs more memory; 8 to 64 suits most tasks."""
    target_modules: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = PROJECTIONS
    """Linear layers that get an adapter. Default: all attention and MLP projections."""
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Scale of the adapter: its output is multiplied by loraAlpha / r. Unset: equal to r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapter. 0 is the fastest path."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which bias vectors are trained too."""
    use_gradient_checkpointing: GradientCheckpointing = "unsloth"
    """Recompute activations to save memory: unsloth (offloads to host memory, and keeps those of as many layers as fit
    the class's memory; does nothing on a CPU class), enabled (PyTorch's own, of every layer), disabled (fastest, most
    memory)."""
    random_state: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 3407
    """Seed of the adapter's initial weights."""
    use_rslora: bool = False
    """Rank-stabilised LoRA: scale by loraAlpha / sqrt(r)."""
    loftq_config: LoftqConfig | None = None
    """LoftQ initialisation. Needs model.loadIn4bit: false."""

    @property
    def alpha(self) -> int:
        """loraAlpha as it is used."""
        return self.lora_alpha if self.lora_alpha is not None else self.r


class Method(StrEnum):
    """Training methods."""

    SFT = "SFT"
    """Supervised fine-tuning: learn the answers of the rows."""
    DPO = "DPO"
    """Direct preference optimisation: learn to prefer the chosen answer of each row to the rejected one."""
    GRPO = "GRPO"
    """Group relative policy optimisation: answer each prompt several times and learn from the answers' rewards."""


DEFAULT_LEARNING_RATES: Mapping[Method, float] = {Method.SFT: 2e-4, Method.DPO: 5e-6, Method.GRPO: 5e-6}


class SftSpec(WireModel):
    """Settings of supervised fine-tuning."""

    train_on: Literal["answers", "lastAnswer", "everything"] = "answers"
    """Tokens that count in the loss: all assistant turns, the last assistant turn, or every token. Rows of plain text
    always
    train on everything."""


class DpoSpec(WireModel):
    """Settings of direct preference optimisation (TRL's DPOConfig). The reference is the base model without the
    adapter."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How closely the adapter stays to the base model: higher stays closer."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"] = "sigmoid"
    """Loss of a pair of answers. robust expects some preferences to be wrong: see labelSmoothing."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """Share of preferences that lossType robust takes to be the wrong way round."""


class ExactAnswerReward(WireModel):
    """1 where the answer is the reference, white space at both ends aside; else 0."""

    column: Annotated[str, Field(min_length=1, max_length=128)] = "answer"
    """Column of the data set that holds the reference."""
    ignore_case: bool = False
    """Whether upper and lower case count as the same."""


class NumericAnswerReward(WireModel):
    """1 where the last number in the answer is the last number in the reference; else 0."""

    column: Annotated[str, Field(min_length=1, max_length=128)] = "answer"
    """Column of the data set that holds the reference: a number, or a text that ends with it."""
    tolerance: Annotated[float, Field(ge=0, le=1_000_000_000)] = 0.0
    """Largest difference that still counts as equal."""


class RegexReward(WireModel):
    """1 where a regular expression is found in the answer; else 0."""

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    """Regular expression in Python's syntax. A dot matches line breaks too."""
    full_match: bool = False
    """Whether it must match the whole answer, white space at both ends aside."""


class JsonSchemaReward(WireModel):
    """1 where the answer is JSON that a schema accepts, 0.5 where it is other JSON, else 0. A Markdown fence around the
    answer is allowed."""

    json_schema: Annotated[str, Field(alias="schema", min_length=2, max_length=16_384)]
    """JSON Schema (draft 2020-12) as JSON text."""


class LengthReward(WireModel):
    """1 for an answer of the target length, falling evenly to 0 at no token and at twice the target."""

    target: Annotated[int, Field(ge=1, le=1_048_576)]
    """Best length in tokens."""


class ConfigMapKeyRef(WireModel):
    """One key of a ConfigMap in the namespace of the fine-tune."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]
    """Key inside the ConfigMap."""


class PythonReward(WireModel):
    """A function of your own, called as TRL calls reward functions: with the keyword arguments prompts, completions and
    every column of the data set, all of them lists of one length. It returns one number per completion.

    It runs in a process of its own, without credentials in its environment. The code is fixed when the run is prepared.
    """

    config_map_ref: ConfigMapKeyRef
    """ConfigMap key with the Python source."""
    function: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "reward"
    """Name of the function in it."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Longest time that one call, which judges a whole batch, may take."""


REWARD_KINDS = ("exactAnswer", "numericAnswer", "regex", "jsonSchema", "length", "python")


class RewardSpec(WireModel):
    """One reward of an answer. Exactly one kind is given."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"[{', '.join(f'has(self.{kind})' for kind in REWARD_KINDS)}].filter(given, given).size() == 1",
                f"a reward takes exactly one of {', '.join(REWARD_KINDS)}.",
            )
        )
    )

    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """Factor of this reward in the sum that is learnt from."""
    exact_answer: ExactAnswerReward | None = None
    """Rewards answers that are the reference."""
    numeric_answer: NumericAnswerReward | None = None
    """Rewards answers that end with the right number."""
    regex: RegexReward | None = None
    """Rewards answers in which a regular expression is found."""
    json_schema: JsonSchemaReward | None = None
    """Rewards answers that are JSON of a given schema."""
    length: LengthReward | None = None
    """Rewards answers of a given length."""
    python: PythonReward | None = None
    """Rewards answers as a function of your own says."""

    @property
    def kind(self) -> str:
        """The kind that is given, as it is written."""
        return next(kind for kind in REWARD_KINDS if kind in self.wire())


class GrpoSpec(WireModel):
    """Settings of group relative policy optimisation (TRL's GRPOConfig)."""

    rewards: Annotated[
        tuple[RewardSpec, ...],
        Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ]
    """What makes an answer good. The rewards of an answer are added up, each times its weight."""
    num_generations: Annotated[int, Field(ge=2, le=64)] = 8
    """Answers to each prompt, which are compared with each other. The rows of an optimizer step (micro-batch times
    accumulation) are answers, and must be a multiple of it."""
    max_prompt_length: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    """Longest prompt in tokens. Longer ones are treated as dataset.overlength says: drop or fail."""
    max_completion_length: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Tokens after which an answer is cut."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """How much chance is in the answers."""
    beta: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Weight of the divergence from the base model that is subtracted from the reward; 0 does without it."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far one step may move the probability of a token: between 1 - epsilon and 1 + epsilon."""
    fast_inference: bool = False
    """Generate with vLLM. Needs a GPU class with the trainer image that has vLLM."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Largest adapter rank that vLLM makes room for. Unset: lora.r. Needs fastInference."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the GPU's memory that vLLM may take. Unset: 0.5. Needs fastInference."""

    @property
    def vllm_memory_share(self) -> float:
        """gpuMemoryUtilization as it is used."""
        return self.gpu_memory_utilization if self.gpu_memory_utilization is not None else 0.5


class EarlyStoppingSpec(WireModel):
    """When training ends before its last step."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without an improvement that end training."""
    min_delta: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How much lower than the lowest before a held-out loss must be to count as an improvement, in nats per token."""


class TrainingSpec(WireModel):
    """How the adapter is trained (TRL's and transformers' own names)."""

    method: Method = Method.SFT
    """Training method."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps. Give this or numTrainEpochs."""
    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the data set. Give this or maxSteps; unset both: 1 epoch."""
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
    """Gradient clipping."""
    optim: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused", "adamw_torch"] = "adamw_8bit"
    """Optimizer. On a CPU class the 8-bit ones are replaced by adamw_torch_fused."""
    packing: bool | None = None
    """Pack several rows into one sequence without attention between them; SFT only. Unset: on where the accelerator
    supports it."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 3407
    """Seed of data order and dropout."""
    eval_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Optimizer steps between evaluations on the held-out rows; the last step is evaluated too. The adapter of the step
    with the lowest held-out loss (with DPO, log loss of the preferences) is then the one that is published. Unset:
    about ten evaluations a run with earlyStopping, none without."""
    early_stopping: EarlyStoppingSpec | None = None
    """End training when the held-out loss no longer improves. Unset: all steps are trained."""
    save_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Optimizer steps between checkpoints. Unset: about twenty checkpoints a run. A checkpoint is also made when the
    pod is
    asked to stop. One that is due while the one before is still being uploaded waits for the first step after."""
    save_minutes: Annotated[int, Field(ge=1, le=1440)] = 10
    """A checkpoint is also made when the last one is this many minutes old."""
    save_total_limit: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept in the bucket."""
    sft: SftSpec | None = None
    """Settings of method SFT."""
    dpo: DpoSpec | None = None
    """Settings of method DPO."""
    grpo: GrpoSpec | None = None
    """Settings of method GRPO, which needs them."""

    def resolved(self) -> TrainingSpec:
        """The same with the defaults of its method written out."""
        settings: dict[str, Any] = {"learning_rate": self.learning_rate or DEFAULT_LEARNING_RATES[self.method]}
        match self.method:
            case Method.SFT:
                settings["sft"] = self.sft or SftSpec()
            case Method.DPO:
                settings["dpo"] = self.dpo or DpoSpec()
            case Method.GRPO:
                pass
            case _:
                assert_never(self.method)
        return self.model_copy(update=settings)


class RowFormat(StrEnum):
    """Shapes of a data-set row."""

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "promptCompletion"
    TEXT = "text"
    PREFERENCE = "preference"
    PROMPT = "prompt"


COLUMN_ROLES = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "text",
    "system",
    "chosen",
    "rejected",
)


Columns = Annotated[
    dict[str, Annotated[str, Field(min_length=1, max_length=128)]] | None, Field(max_length=len(COLUMN_ROLES))
]
MAX_SOURCES = 16


class SourceSpec(WireModel):
    """One of several sources of training rows."""

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)]
    """Where the rows are, as in dataset.uri."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """How often each row is trained on: 2 trains on each twice, 0.25 on a quarter of them. The total is weight times
    the usable rows, rounded; which rows make up a fraction is decided by a hash of training.seed and their contents."""
    format: RowFormat | None = None
    """Shape of the rows. Unset: dataset.format, or else detected from the columns."""
    columns: Columns = None
    """Your column names, as in dataset.columns. Unset: dataset.columns."""


ChatTemplateName = Literal[
    "alpaca",
    "chatml",
    "gemma",
    "gemma-3",
    "gemma-3n",
    "gemma-4",
    "gemma-4-thinking",
    "gemma2",
    "gemma2_chatml",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4-thinking",
    "gemma_chatml",
    "gpt-oss",
    "gptoss",
    "lfm-2",
    "lfm-2.5",
    "llama",
    "llama-3",
    "llama-3.1",
    "llama-3.2",
    "llama-3.3",
    "llama-31",
    "llama-32",
    "llama-33",
    "llama3",
    "mistral",
    "phi-3",
    "phi-3.5",
    "phi-35",
    "phi-4",
    "qwen-2.5",
    "qwen-2.5-coder",
    "qwen-25",
    "qwen-25-coder",
    "qwen-3",
    "qwen2.5",
    "qwen2.5-coder",
    "qwen25",
    "qwen25-coder",
    "qwen3",
    "qwen3-instruct",
    "qwen3-thinking",
    "starling",
    "unsloth",
    "vicuna",
    "vicuna_old",
    "yi-chat",
    "zephyr",
]


class ChatTemplateSpec(WireModel):
    """A chat template: one of Unsloth's by its name, or your own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.name) != has(self.jinja)", "dataset.chatTemplate takes exactly one of name and jinja."),
        )
    )

    name: ChatTemplateName | None = None
    """Name of a template of Unsloth's get_chat_template. Its special tokens must be in the model's vocabulary; what it
    writes behind an answer is the end token that is trained and published."""
    jinja: Annotated[str, Field(min_length=1, max_length=32_768)] | None = None
    """Source of a Jinja template, as in tokenizer_config.json."""


class DatasetSpec(WireModel):
    """The training rows: of one place (uri) or of several (sources)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.uri) != has(self.sources)", "dataset takes exactly one of uri and sources."),
        )
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)] | None = None
    """A file, a folder, or files by a pattern (train-*.parquet) of .jsonl, .json, .csv (.gz, .bz2, .xz, .zst, .lz4 and
    .zip too) or .parquet: s3://bucket/path, gs://bucket/path or az://container/path; pvc://claim/path for a
    PersistentVolumeClaim and configmap://name/key for a ConfigMap of the namespace; or
    hf://datasets/owner/name@revision/path for a data set on the Hugging Face Hub, read with the token of
    model.tokenSecretRef, whose revision (unset: main) is pinned for the run and reported."""
    sources: Annotated[tuple[SourceSpec, ...], Field(min_length=1, max_length=MAX_SOURCES)] | None = None
    """Several places whose rows are trained on together."""
    format: RowFormat | None = None
    """Shape of the rows. Unset: detected from the columns. Method DPO reads preference (prompt, chosen, rejected),
    GRPO reads prompt (prompt and the columns of its rewards), SFT the others."""
    columns: Columns = None
    """Your column names, keyed by the name the format expects (prompt: question)."""
    chat_template: ChatTemplateSpec | None = None
    """How conversations are rendered. Unset: the tokenizer's own template."""
    overlength: Literal["drop", "truncate", "fail"] = "drop"
    """What happens to rows longer than model.maxSeqLength: drop the row, cut its end, or fail the run."""
    max_bad_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percent of the rows that may be unusable (not JSON, a column missing, an unknown role): they are left out and
    listed with file, line and reason in data-report.json. 0: the first unusable row fails the run."""

    def all_sources(self) -> tuple[SourceSpec, ...]:
        """The sources, with format and columns of the data set where they name none of their own."""
        named = self.sources or ((SourceSpec(uri=self.uri),) if self.uri else ())
        return tuple(self.inherited(source) for source in named)

    def inherited(self, source: SourceSpec) -> SourceSpec:
        """The source, with format and columns of the data set where it names none of its own."""
        return source.model_copy(
            update={"format": source.format or self.format, "columns": source.columns or self.columns}
        )


class GateSpec(WireModel):
    """What the adapter must reach on the held-out rows. Every value that is set must be met."""

    max_eval_loss: Annotated[float, Field(gt=0, le=100)] | None = None
    """Highest held-out loss per token (nats) with the adapter."""
    min_improvement: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Smallest share by which the adapter lowers the base model's held-out loss: 0.2 asks for a loss at least 20 %
    lower."""
    min_token_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of held-out tokens that are predicted with the adapter."""
    min_exact_match: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of generated answers that are exactly right. Needs evaluation.exactMatch."""
    min_reward: Annotated[float, Field(ge=-8_000, le=8_000)] | None = None
    """Method GRPO: smallest mean reward of the answers to held-out prompts with the adapter."""


class ExactMatchSpec(WireModel):
    """Answers generated on held-out rows and compared with their references, white space aside."""

    rows: Annotated[int, Field(ge=1, le=1000)] = 32
    """Held-out rows that are answered, by base and adapter."""
    ignore_case: bool = False
    """Whether upper and lower case count as the same."""


class EvaluationSpec(WireModel):
    """How base and adapter are compared on rows that were not trained on."""

    dataset_uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)] | None = None
    """Rows to evaluate on, in the format of the data set. Unset: rows held out of the data set."""
    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Share of the data set that is held out when datasetUri is unset."""
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Most rows evaluated."""
    samples: Annotated[int, Field(ge=0, le=16)] = 3
    """Held-out prompts answered by base and adapter; the answers are published in evaluation.json."""
    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=8192)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Prompts of your own, asked as the rows of the data set ask and answered by base and adapter; the answers are
    published in evaluation.json and in the model card."""
    exact_match: ExactMatchSpec | None = None
    """Compare generated answers with their references. Unset: no answers are generated for this."""
    gate: GateSpec | None = None
    """What the adapter must reach to be published. One that does not is kept, whole and verified, in
    <output.uri>/rejected/<run digest>/, and the run ends as QualityGateFailed. Another run with a gate that it passes
    publishes it without training again. Unset: every adapter is published."""


class SigningKeyRef(WireModel):
    """A private key in a Secret in the namespace of the fine-tune."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "private.pem"
    """Key inside the Secret, with an unencrypted Ed25519 private key in PEM form."""


class SigningSpec(WireModel):
    """Signs the adapter's manifest, which holds the sha256 of every file."""

    key_secret_ref: SigningKeyRef
    """The private key. Only the run's own pods read it."""


class ResourcesSpec(WireModel):
    """What one run computes on, within what its class allows."""

    gpus: Annotated[int, Field(ge=1, le=16)] = 1
    """GPUs of one node that share the work of every step (data parallel). The effective batch is
    perDeviceTrainBatchSize x gradientAccumulationSteps x gpus. On a CPU class: processes."""


ADAPTER = "adapter"
MERGED_16BIT = "merged16bit"
GGUF = "gguf"
Format = Literal["adapter", "merged16bit", "gguf"]
QuantizationMethod = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class GgufSpec(WireModel):
    """GGUF files for llama.cpp and what is built on it."""

    quantization_method: Annotated[
        tuple[QuantizationMethod, ...],
        Field(min_length=1, max_length=5, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = ("q8_0",)
    """One file is written for each: f16 (16 bits a weight), q8_0 (8.5), q6_k (6.6), q5_k_m (5.7) or q4_k_m (4.8)."""


class OutputSpec(WireModel):
    """Where the adapter is published."""

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=BUCKET_URI)]
    """Folder in the bucket. The adapter is published to <uri>/<run digest>/ and <uri>/latest.json points to the
    newest."""
    formats: Annotated[
        tuple[Format, ...], Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ("adapter",)
    """What is published: adapter (always, named or not), merged16bit (the adapter merged into a 16-bit copy of the base
    model, in the folder merged16bit/) and gguf (that model as GGUF files, in the folder gguf/). The last two need
    memory and scratch for the 16-bit model. Each is proven against the adapter; one that cannot be made or proven ends
    the run as ExportFailed, with the adapter published."""
    gguf: GgufSpec = GgufSpec()
    """Settings of the format gguf."""
    signing: SigningSpec | None = None
    """Publish an Ed25519 signature beside the manifest. Unset: none."""

    @property
    def exports(self) -> tuple[str, ...]:
        """What is published besides the adapter, each with its folder's name: merged16bit, gguf/q8_0."""
        merged = (MERGED_16BIT,) if MERGED_16BIT in self.formats else ()
        files = tuple(f"{GGUF}/{method}" for method in self.gguf.quantization_method) if GGUF in self.formats else ()
        return merged + files


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
