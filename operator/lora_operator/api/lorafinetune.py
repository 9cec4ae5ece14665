"""LoraFineTune: one fine-tune, from spec to published adapter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from lora_trainer.contract.exits import ExitClass
from lora_trainer.contract.outcome import Artifact, Chosen, DatasetFigures, Estimate, Evaluation, ModelFigures
from lora_trainer.contract.progress import Progress
from lora_trainer.contract.spec.cel import on_create, rule, rules, value
from lora_trainer.contract.spec.dataset import DatasetSpec
from lora_trainer.contract.spec.evaluation import EvaluationSpec
from lora_trainer.contract.spec.hugging_face import HuggingFaceSpec
from lora_trainer.contract.spec.lora import LoraSpec
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.contract.spec.names import ObjectName
from lora_trainer.contract.spec.output import OutputSpec
from lora_trainer.contract.spec.parallelism import ParallelismSpec
from lora_trainer.contract.spec.training import TrainingSpec
from lora_trainer.contract.wire import WireModel
from pydantic import ConfigDict, Field

from lora_operator.api.conditions import Conditions, ConditionType, is_true
from lora_operator.api.conflicts import CONFLICTS
from lora_operator.naming import MAX_LABEL_VALUE, RunId, Stage

LONGEST_DURATION = 365 * 24 * 3600
MAX_ATTEMPT_MESSAGE = 512
MAX_WORK_MESSAGE = 1024
KueueName = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_VALUE, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of an object of Kueue: it is the value of a label."""

IMMUTABLE = (
    "huggingFace",
    "model",
    "dataset",
    "output",
    "lora",
    "training",
    "evaluation",
    "parallelism",
    "className",
)
"""Fields of spec that shape the run, and so never change."""
CHANGEABLE_WHILE_SUSPENDED = ("queueName", "workloadPriorityClassName")
"""Fields of spec that shape the Jobs of a run. A suspended run has none."""


def _unchanged(field: str) -> str:
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


def _immutable(field: str) -> dict[str, str]:
    return rule(
        _unchanged(field),
        f"spec.{field} cannot change: a LoraFineTune is one run. Create another LoraFineTune with the new value.",
        field=field,
    )


def _immutable_unless_suspended(field: str) -> dict[str, str]:
    return rule(
        f"({value('suspend', False)} && has(oldSelf.suspend) && oldSelf.suspend) || ({_unchanged(field)})",
        f"spec.{field} can change only while the run is suspended: set spec.suspend to true first.",
        field=field,
    )


QUEUE_OF_SEVERAL_NODES = rule(
    f"!has(oldSelf.queueName) || has(self.queueName) || {value('parallelism.nodes', ParallelismSpec().nodes)} == 1",
    "spec.queueName of a run on several nodes cannot be removed, because its pods must start together: set another.",
    field="queueName",
)

SPEC_RULES = rules(
    *(_immutable(field) for field in IMMUTABLE),
    *(_immutable_unless_suspended(field) for field in CHANGEABLE_WHILE_SUSPENDED),
    QUEUE_OF_SEVERAL_NODES,
    *(on_create(conflict.rule) for conflict in CONFLICTS),
)


class LoraFineTuneSpec(WireModel):
    """What is wanted. A run is immutable: only suspend, retryLimit, maxRuntimeSeconds and jobRetentionSeconds may
    change after creation, and queueName and workloadPriorityClassName while it is suspended."""

    model_config = ConfigDict(json_schema_extra=SPEC_RULES)

    class_name: ObjectName | None = None
    """LoraFineTuneClass that says where and on what the run trains. Unset: the default class."""
    hugging_face: HuggingFaceSpec = HuggingFaceSpec()
    """Access to the Hugging Face Hub."""
    model: ModelSpec
    """The base model and how it is loaded."""
    dataset: DatasetSpec
    """The training rows."""
    output: OutputSpec
    """Where the adapter is published."""
    lora: LoraSpec = LoraSpec()
    """The LoRA adapter."""
    training: TrainingSpec = TrainingSpec()
    """How the adapter is trained."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How base and adapter are compared."""
    parallelism: ParallelismSpec = ParallelismSpec()
    """GPUs and nodes of the run, within the limits of its class."""
    queue_name: KueueName | None = None
    """LocalQueue of Kueue in the namespace of the run, in which training waits for its accelerator. Unset: the class's
    default, if it has one. Prepare does not wait in a queue. Without Kueue the field has no effect. It may change while
    the run is suspended."""
    workload_priority_class_name: KueueName | None = None
    """WorkloadPriorityClass of Kueue: which run comes first in the queue, and for which one a running training gives
    way after a checkpoint. Unset: the one that the class gives its runs, or else the priority of its pods. Counts only
    where training waits in a queue."""
    suspend: bool = False
    """True stops the run after a checkpoint and gives the accelerator back; false continues from that checkpoint."""
    retry_limit: Annotated[int, Field(ge=0, le=20)] = 3
    """Attempts that may fail for infrastructure causes (storage, network, node) before the run fails."""
    max_runtime_seconds: Annotated[int, Field(ge=60, le=LONGEST_DURATION)] | None = None
    """Seconds for which the run's pods may hold their nodes before the run fails. Time in a queue, pauses between
    attempts and suspension do not count. Unset: the class's limit."""
    job_retention_seconds: Annotated[int, Field(ge=0, le=LONGEST_DURATION)] | None = None
    """Seconds after which Jobs, pods, ConfigMap and Service of a finished run are deleted. The LoraFineTune and its
    status stay. Unset: the class's value."""


class Attempt(WireModel):
    """One Job of the run."""

    stage: Stage
    """prepare or train; or cleanup, which deletes prepared rows and checkpoints after the end of the run."""
    number: int
    """Counts from 1 within its stage."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Reason for its end; unset while it runs."""
    exit_class: ExitClass | None = None
    """Class of its end, which decides what follows. UserError ends the run. OutOfMemory is retried with a smaller
    micro-batch, Infrastructure up to spec.retryLimit times, Bug and Stuck once. Interrupted does not count as a
    retry."""
    exit_code: int | None = None
    """Exit code of its container."""
    message: Annotated[str, Field(max_length=MAX_ATTEMPT_MESSAGE)] | None = None
    """What happened and what to do about it; unset after success."""
    start_time: datetime | None = None
    """When its newest pod got a node: a pod that is drained or preempted is replaced."""
    end_time: datetime | None = None
    """When that pod or the attempt ended; unset while it runs."""
    duration_seconds: int | None = None
    """Seconds that its pods held their nodes, without a pod that runs now. Time in a queue does not count."""
    waiting_seconds: int | None = None
    """Seconds that it waited for a queue and for nodes before its pods, up to the newest."""
    from_step: int | None = None
    """Optimizer step that it started from."""
    to_step: int | None = None
    """Last optimizer step that it is known to have done."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of its pod; of several pods, that of the first."""


class AttemptTotals(WireModel):
    """Sums over attempts."""

    attempts: int = 0
    """Number of attempts."""
    prepare_seconds: int = 0
    """Sum of durationSeconds of prepare attempts."""
    train_seconds: int = 0
    """Sum of durationSeconds of train attempts."""
    failed_train_seconds: int = 0
    """The part of trainSeconds of attempts that failed."""
    waiting_seconds: int = 0
    """Sum of waitingSeconds."""


class Disruptions(WireModel):
    """Pods of the run that were drained, preempted or evicted, as far as the operator saw it. They cost no retry."""

    count: int = 0
    """Number of disruptions."""
    in_a_row: int = 0
    """The newest of them, since training gained a step. From 5 on the run needs a person (RepeatedlyDisrupted), and
    the operator pauses before each further attempt."""
    step: int | None = None
    """Furthest optimizer step known at the newest of them; unset while preparing."""


class Adjustment(WireModel):
    """A setting that the operator changed after an attempt ran out of memory."""

    attempt: int
    """First train attempt with the changed setting."""
    reason: Annotated[str, Field(max_length=128)]
    """Reason of the attempt that failed."""
    per_device_train_batch_size: int
    """Micro-batch from then on, in rows."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step from then on; the effective batch stays the same."""


Values = dict[str, Annotated[str, Field(max_length=4096)]]


class Settings(WireModel):
    """Every setting of the run by its path below spec (lora.r), grouped by where it comes from. Values are JSON,
    strings without quotes."""

    user: Values = Field(default_factory=dict)
    """Set in this LoraFineTune."""
    class_: Annotated[Values, Field(alias="class", default_factory=dict)]
    """Unset in this LoraFineTune, and set in spec.defaults of the class."""
    chosen: Values = Field(default_factory=dict)
    """Set in neither, and chosen by the trainer for these rows, this model and this class."""
    default: Values = Field(default_factory=dict)
    """Defaults of the product, for settings that are set nowhere else."""


class ReportedProgress(Progress):
    """Where the work stands, as last polled."""

    steps: Annotated[str, Field(max_length=32)] | None = None
    """Steps done of all steps, for people."""
    eta: Annotated[str, Field(max_length=16)] | None = None
    """Time left, for people."""
    last_update_time: datetime
    """When this was polled."""


class Usage(WireModel):
    """Time and memory that the run used. A pod counts when it has ended, from the moment at which it got its node."""

    pod_seconds: int = 0
    """Seconds that its pods held nodes, those of prepare included. Each of several pods counts."""
    accelerator_seconds: int = 0
    """Seconds that its train pods held GPUs, times parallelism.gpus and parallelism.nodes; 0 on a CPU class."""
    failed_accelerator_seconds: int = 0
    """The part of acceleratorSeconds of attempts that failed. What they saved in checkpoints is not lost."""
    waiting_seconds: int = 0
    """Seconds that its attempts waited in queues and for nodes. No accelerator is held meanwhile."""
    peak_memory_gib: Annotated[float | None, Field(alias="peakMemoryGiB")] = None
    """Peak accelerator memory; peak resident memory on a CPU class."""
    tokens_per_second: float | None = None
    """Non-padding tokens trained per second in the last attempt."""


class WorkState(StrEnum):
    """What became of a run's prepared rows and checkpoints."""

    KEPT = "Kept"
    """They are in the bucket, as far as the run has written any."""
    REMOVED = "Removed"
    """A cleanup Job has deleted them."""


class Work(WireModel):
    """The run's own folder below the class's storage.workUri."""

    uri: Annotated[str, Field(max_length=2048)]
    """The folder, with prepared/, checkpoints/ and data-report.json."""
    state: WorkState = WorkState.KEPT
    """Kept, or Removed: prepared/ and checkpoints/ are deleted and data-report.json stays."""
    removed_time: datetime | None = None
    """When they were deleted."""
    message: Annotated[str, Field(max_length=MAX_WORK_MESSAGE)] | None = None
    """Why a cleanup that is due has not deleted them yet, and what to do about it."""


class LoraFineTuneStatus(WireModel):
    """What is. Ready=True means: an adapter with artifact.digest is in the bucket, it was loaded back, and it works."""

    observed_generation: int | None = None
    """metadata.generation that this status was derived from; -1 before an operator has seen the run."""
    conditions: Conditions = ()
    """Accepted, Prepared, Running and Suspended describe stages of the run. Finished becomes True when the run ends,
    successfully or not. Ready (the adapter is published and works), Reconciling and Stalled are those of kstatus."""
    class_name: str | None = None
    """The class that the run was resolved against."""
    resolved_digest: Annotated[str, Field(max_length=64)] | None = None
    """sha256 of what the run was resolved to: of the data of its ConfigMap. It is recorded before the ConfigMap is
    created, and the operator starts nothing from a ConfigMap with other data."""
    run_digest: str | None = None
    """sha256 over everything that shapes the adapter; names the artifact."""
    attempts: Annotated[
        tuple[Attempt, ...],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["stage", "number"]},
        ),
    ] = ()
    """The Jobs of the run, the newest 48 at most."""
    removed_attempts: AttemptTotals | None = None
    """Sums over the attempts that were removed from attempts to make room."""
    disruptions: Disruptions | None = None
    """Pods of the run that were drained, preempted or evicted; unset before the first."""
    dataset: DatasetFigures | None = None
    """Figures of the dataset, from prepare."""
    model: ModelFigures | None = None
    """The base model as it was resolved."""
    settings: Settings | None = None
    """Every setting of the run, and where it comes from."""
    estimate: Estimate | None = None
    """Predicted size of the run."""
    chosen: Chosen | None = None
    """Numbers that the user left unset, with the trainer's choices."""
    progress: ReportedProgress | None = None
    """Where the work stands."""
    resumptions: int = 0
    """Number of times that training resumed from a checkpoint."""
    adjustments: Annotated[tuple[Adjustment, ...], Field(max_length=16)] = ()
    """Settings that the operator changed after attempts ran out of memory."""
    best_step: int | None = None
    """Step whose adapter had the lowest held-out loss and was published; unset without evaluations during training."""
    evaluation: Evaluation | None = None
    """Base and adapter on rows that were not trained on."""
    artifact: Artifact | None = None
    """The published adapter; of a run that ended as QualityGateFailed, the rejected one."""
    usage: Usage | None = None
    """Time and memory that the run used."""
    work: Work | None = None
    """Prepared rows and checkpoints. The class says how long they stay after the end of the run."""
    queued_since: datetime | None = None
    """Since when the run waits for others, in line (WaitingForTurn) or in a queue (Queued); unset while it does not."""
    queued_seconds: int | None = None
    """Seconds that it waited for others before, without the time since queuedSince."""
    completion_time: datetime | None = None
    """When the run became Finished."""

    @property
    def terminal(self) -> bool:
        """Whether the run is over for good."""
        return is_true(self.conditions, ConditionType.FINISHED)

    @property
    def on_record(self) -> bool:
        """Whether an operator has decided to start the run. Before that it has created nothing. Status is not for users
        to write, so this is a fact where Jobs and ConfigMaps are claims."""
        return self.resolved_digest is not None or bool(self.attempts)

    def of(self, stage: Stage) -> tuple[Attempt, ...]:
        """The attempts of one stage, oldest first."""
        return tuple(attempt for attempt in self.attempts if attempt.stage == stage)


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """One object as the API server has it, whether its spec can be read or not."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    created: datetime
    deleting: bool
    status: LoraFineTuneStatus

    @property
    def id(self) -> RunId:
        """Namespace and uid."""
        return RunId(self.namespace, self.uid)

    @property
    def full_name(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class LoraFineTune(StoredRun):
    """One object with its spec."""

    spec: LoraFineTuneSpec


def parse_run(body: dict[str, Any]) -> LoraFineTune:
    """The typed form of an object of the API server. Raises pydantic.ValidationError."""
    stored = parse_stored(body)
    # A newer CRD may set defaults for its new fields in existing objects. A run that has started needs none of them,
    # because everything that shapes it is already fixed.
    unknown = "ignore" if stored.status.attempts else "forbid"
    return LoraFineTune(**vars(stored), spec=LoraFineTuneSpec.model_validate(body["spec"], extra=unknown))


def parse_stored(body: dict[str, Any]) -> StoredRun:
    """All but the spec. Raises pydantic.ValidationError where the status cannot be read."""
    metadata = body["metadata"]
    return StoredRun(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        # An older operator must be able to read what a newer one wrote.
        status=LoraFineTuneStatus.model_validate(body.get("status", {}), extra="ignore"),
    )
