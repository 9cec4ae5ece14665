"""The trainer's termination message: at most 4096 bytes of JSON, with all that status shows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lora_trainer.contract.spec.evaluation import MAX_SETS
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.contract.untrusted import read_untrusted
from lora_trainer.contract.wire import WireModel

MAX_BYTES = 4096
"""Bytes of a termination message that the kubelet keeps."""
MAX_SENTENCE = 1024
MAX_SHORT_SENTENCE = 400
MAX_SAMPLES = 3
MAX_SAMPLE = 240
MAX_SHORT_SAMPLE = 80
MAX_BUCKETS = 16
MAX_REASONS = 8
MAX_UNUSED = 8
MAX_UNUSED_NAME = 60


BAD_ROW = "BadRow"
"""The reason of rows that cannot be used."""


class DroppedRows(WireModel):
    """Rows left out for one reason."""

    reason: str
    """Why, as a CamelCase word."""
    rows: int
    """How many."""


class Unused(WireModel):
    """A column or key of the rows that changes nothing of what is trained."""

    name: Annotated[str, Field(max_length=MAX_UNUSED_NAME)]
    """Its name: source, or messages[user].name for a key of the messages of a role."""
    rows: int
    """Rows that have it."""


class Lengths(WireModel):
    """Row lengths in tokens."""

    p50: int
    """Median."""
    p95: int
    """95th percentile."""
    max: int
    """Longest row."""


class LengthBucket(WireModel):
    """Rows whose lengths lie between the bucket before and this one."""

    up_to: int
    """Largest length in tokens."""
    rows: int
    """How many."""


class DatasetFigures(WireModel):
    """Figures of the dataset, from prepare."""

    format: str
    """Row format, detected or set in the spec."""
    revisions: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Commits of the Hugging Face datasets that were read, in the order of the sources."""
    rows: int
    """Rows read."""
    kept: int
    """Rows trained on in one epoch, by the weights of their sources."""
    answer_samples: int | None = None
    """Samples trained on in one epoch, one for each trained answer; unset where each row is one sample."""
    held_out: int
    """Rows evaluated on."""
    dropped: Annotated[tuple[DroppedRows, ...], Field(max_length=16)] = ()
    """Rows left out, by reason."""
    truncated: int = 0
    """Rows whose end was cut off at model.maxSeqLength (dataset.overlength: Truncate)."""
    duplicates: int = 0
    """Rows that repeat an earlier one. Both are trained on and neither is held out."""
    leaked_prompts: int = 0
    """Rows trained on whose prompt is also evaluated on. Exact copies of evaluated rows are never trained on."""
    unused: Annotated[tuple[Unused, ...], Field(max_length=MAX_UNUSED)] = ()
    """The first columns and keys of the rows that change nothing of what is trained."""
    tokens: int
    """Tokens of the rows trained on."""
    trained_token_share: float
    """Share of those tokens that count in the loss."""
    lengths: Lengths
    """Row lengths in tokens."""
    digest: str
    """sha256 of the tokenised rows."""
    histogram: Annotated[tuple[LengthBucket, ...], Field(max_length=MAX_BUCKETS)] = ()
    """Row lengths before any limit, in buckets that double."""
    samples: Annotated[tuple[str, ...], Field(max_length=MAX_SAMPLES)] = ()
    """The first rows as the model sees them, shortened; tokens that count in the loss are in ⟦ ⟧."""
    report: str | None = None
    """URI of the full report in the bucket: bad rows with file and line, lengths, samples."""


class ModelFigures(WireModel):
    """The base model as it was resolved."""

    revision: str
    """Commit of the hub, or sha256 of the folder's files."""
    parameters: int
    """Number of parameters."""
    architecture: str
    """Architecture named in config.json."""
    newer_revision: str | None = None
    """Set when the run reuses its adapter from this commit although model.revision has moved on: the commit that it
    means now."""


class Estimate(WireModel):
    """Size of the run, predicted before it holds an accelerator."""

    memory_gib: Annotated[float, Field(alias="memoryGiB")]
    """Predicted peak memory of the accelerator; of the process on a CPU class."""
    fits: bool
    """Whether that is within the class's memory; true where the class does not state its memory."""
    per_device_train_batch_size: int
    """Micro-batch in rows."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step."""
    kept_layers: int = 0
    """Decoder layers whose activations are kept instead of recomputed."""


class Loader(StrEnum):
    """Unsloth's classes that load a model."""

    FAST_LANGUAGE_MODEL = "FastLanguageModel"
    """Its own code for the model's layers."""
    FAST_MODEL = "FastModel"
    """transformers' code for them, compiled."""


class Chosen(WireModel):
    """Choices of the trainer for the numbers that the user left unset."""

    max_steps: int
    """Optimizer steps."""
    per_device_train_batch_size: int
    """Micro-batch in rows."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step."""
    kept_layers: int = 0
    """Decoder layers whose activations are kept instead of recomputed."""
    learning_rate: float
    """Peak learning rate."""
    save_steps: int
    """Steps between checkpoints."""
    eval_steps: int | None = None
    """Steps between evaluations during training; unset where there are none."""
    packing: bool
    """Whether rows are packed."""
    packing_length: int | None = None
    """Tokens that rows are packed to."""
    optim: str
    """Optimizer."""
    dtype: str
    """Compute type."""
    quantization: Quantization = Quantization.NF4
    """Precision of the base model's weights in memory: NF4 or None."""
    loader: Loader = Loader.FAST_LANGUAGE_MODEL
    """Unsloth's class that loads and trains the model."""
    dataloader_workers: int = 0
    """Processes that prepare batches while the accelerator computes."""
    reasons: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_SHORT_SENTENCE)], ...], Field(max_length=MAX_REASONS)
    ] = ()
    """Reasons: a sentence for each choice that the data, the memory or a measurement decided."""


class Artifact(WireModel):
    """The adapter in the bucket."""

    uri: str
    """Folder in the bucket."""
    digest: str
    """sha256 of its manifest."""
    size_bytes: int
    """Bytes of all its files."""
    formats: Annotated[tuple[str, ...], Field(max_length=8)] = ("adapter",)
    """Formats in the folder: adapter, merged16bit, gguf/q8_0, ..."""


class Figures(WireModel):
    """Base and adapter on the same rows: losses and accuracies of SFT and DPO, rewards of GRPO."""

    rows: int
    """Rows evaluated."""
    base_loss: float | None = None
    """Mean loss per trained token of the base model."""
    loss: float | None = None
    """Mean loss per trained token with the adapter."""
    base_token_accuracy: float | None = None
    """Share of trained tokens that the base model predicts."""
    token_accuracy: float | None = None
    """Share of trained tokens predicted with the adapter."""
    answers: int | None = None
    """Held-out rows whose answers were generated and compared with their references."""
    base_exact_match: float | None = None
    """Share of the base model's generated answers that are exactly right."""
    exact_match: float | None = None
    """Share of the answers generated with the adapter that are exactly right."""
    reward_accuracy: float | None = None
    """Method DPO: share of pairs in which the adapter raised the chosen answer over the rejected one, against the base
    model."""
    reward_margin: float | None = None
    """Method DPO: mean lead of the chosen answer over the rejected one, as log-probability against the base model times
    beta."""
    base_reward: float | None = None
    """Method GRPO: mean reward of the base model's answers; unset where no reward applies to any."""
    reward: float | None = None
    """Method GRPO: mean reward of the answers with the adapter; unset where no reward applies to any."""


class SetFigures(Figures):
    """Figures of one of evaluation.datasets."""

    name: str
    """Name of the set."""


class Evaluation(Figures):
    """Base and adapter on the held-out rows, and on the further sets."""

    sets: (
        Annotated[
            tuple[SetFigures, ...],
            Field(
                max_length=MAX_SETS,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Figures of evaluation.datasets. Left out where the pod's termination message has no room for them;
    evaluation.json has them all."""


class Usage(WireModel):
    """Time and memory that an attempt used."""

    train_seconds: float
    """Seconds from the first to the last step of this attempt."""
    tokens_per_second: float
    """Non-padding tokens trained per second."""
    peak_memory_gib: Annotated[float, Field(alias="peakMemoryGiB")]
    """Peak accelerator memory; peak resident memory on a CPU class."""


class PrepareResult(WireModel):
    """Result of a prepare that succeeded."""

    stage: Literal["prepare"] = "prepare"
    run_digest: str
    dataset: DatasetFigures
    model: ModelFigures
    estimate: Estimate
    chosen: Chosen
    code_digest: str | None = None
    """sha256 of the code of the user's reward functions."""
    artifact: Artifact | None = None
    """Set when an identical run has already published a complete adapter: nothing is left to train."""
    evaluation: Evaluation | None = None
    """The evaluation of that adapter."""


class TrainResult(WireModel):
    """Result of a train that made an adapter, published or rejected."""

    stage: Literal["train"] = "train"
    artifact: Artifact
    evaluation: Evaluation
    usage: Usage
    best_step: int | None = None
    """Step whose adapter had the lowest held-out loss and was published; unset without evaluations during training."""


class CleanupResult(WireModel):
    """Result of a cleanup: the run's prepared rows and checkpoints are deleted."""

    stage: Literal["cleanup"] = "cleanup"
    files: int
    """Files that this pod deleted."""


StageResult = PrepareResult | TrainResult | CleanupResult


class Outcome(WireModel):
    """The termination message of a pod."""

    reason: Annotated[str, Field(max_length=64, pattern="^[A-Z][A-Za-z0-9]*$")]
    """Name of the exit code."""
    message: str
    """A sentence: what happened, to which field, file or line."""
    remedy: str | None = None
    """A sentence: what to do about it."""
    step: int | None = None
    """Last optimizer step that was done."""
    from_step: int | None = None
    """Step of the checkpoint that this pod resumed from."""
    checkpoint: str | None = None
    """URI of the last committed checkpoint."""
    needed_memory_gib: Annotated[float | None, Field(alias="neededMemoryGiB")] = None
    """With DoesNotFit: memory that a class must offer."""
    result: Annotated[StageResult, Field(discriminator="stage")] | None = None


def clip(sentence: str, limit: int) -> str:
    """The sentence, cut to `limit` characters with an ellipsis where it is longer."""
    return sentence if len(sentence) <= limit else sentence[: limit - 1] + "…"


def encode_outcome(outcome: Outcome) -> str:
    """The outcome as JSON of at most MAX_BYTES bytes. Texts are cut first, figures only where that is not enough, and
    the reason never."""
    text = ""
    for smaller in _smaller(outcome):
        text = smaller.model_dump_json(by_alias=True, exclude_none=True)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _smaller(outcome: Outcome) -> Iterator[Outcome]:
    """The outcome and ever smaller forms of it, down to one that always fits."""
    yield (outcome := _with_sentences(outcome, MAX_SENTENCE))
    yield (outcome := _with_dataset(outcome, lambda data: {"samples": clip_samples(data.samples, MAX_SHORT_SAMPLE)}))
    yield (outcome := _with_dataset(outcome, lambda _: {"samples": ()}))
    yield (outcome := _with_sentences(outcome, MAX_SHORT_SENTENCE))
    yield (outcome := _without_reasons(outcome))
    yield (outcome := _with_dataset(outcome, lambda _: {"unused": ()}))
    yield (outcome := _without_sets(outcome))
    yield (outcome := _with_dataset(outcome, lambda _: {"histogram": (), "report": None, "revisions": ()}))
    yield (outcome := _with_sentences(outcome, MAX_SHORT_SENTENCE // 4))
    yield outcome.model_copy(update={"result": None, "checkpoint": None})


def _with_sentences(outcome: Outcome, limit: int) -> Outcome:
    remedy = clip(outcome.remedy, limit) if outcome.remedy else None
    return outcome.model_copy(update={"message": clip(outcome.message, limit), "remedy": remedy})


def _with_dataset(outcome: Outcome, change: Callable[[DatasetFigures], dict]) -> Outcome:
    result = outcome.result
    if not isinstance(result, PrepareResult):
        return outcome
    dataset = result.dataset.model_copy(update=change(result.dataset))
    return outcome.model_copy(update={"result": result.model_copy(update={"dataset": dataset})})


def _without_reasons(outcome: Outcome) -> Outcome:
    result = outcome.result
    if not isinstance(result, PrepareResult):
        return outcome
    chosen = result.chosen.model_copy(update={"reasons": ()})
    return outcome.model_copy(update={"result": result.model_copy(update={"chosen": chosen})})


def _without_sets(outcome: Outcome) -> Outcome:
    result = outcome.result
    if not isinstance(result, PrepareResult | TrainResult) or result.evaluation is None:
        return outcome
    evaluation = result.evaluation.model_copy(update={"sets": None})
    return outcome.model_copy(update={"result": result.model_copy(update={"evaluation": evaluation})})


def clip_samples(samples: tuple[str, ...], limit: int) -> tuple[str, ...]:
    """The samples, each cut in its middle to `limit` characters: its end shows what is trained."""
    half = limit // 2
    return tuple(
        sample if len(sample) <= limit else f"{sample[: limit - half - 1]}…{sample[-half:]}" for sample in samples
    )


def decode_outcome(text: str) -> Outcome | None:
    """The outcome in a termination message, or None where there is none (killed early, or another program's text).
    Fields of a newer trainer are ignored."""
    try:
        return read_untrusted(text, Outcome)
    except ValueError:
        return None
