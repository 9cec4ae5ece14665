"""LoraFineTuneClass: the platform team's side of a run. Where it trains, on what, and where its work is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.contract.spec.cel import given, rule, rules, value
from lora_trainer.contract.spec.evaluation import EvaluationSettings
from lora_trainer.contract.spec.hugging_face import HuggingFaceSpec
from lora_trainer.contract.spec.lora import LoraSpec
from lora_trainer.contract.spec.model import ModelSettings
from lora_trainer.contract.spec.names import SUBDOMAIN, ObjectName
from lora_trainer.contract.spec.training import TrainingSettings
from lora_trainer.contract.spec.uris import BLANK
from lora_trainer.contract.wire import WireModel
from pydantic import ConfigDict, Field

from lora_operator.api.conditions import Conditions
from lora_operator.api.lorafinetune import LONGEST_DURATION, KueueName
from lora_operator.api.namespace_selector import NamespaceSelector
from lora_operator.api.placement import Placement
from lora_operator.api.pod_overlay import PodOverlay, Scheduling
from lora_operator.api.quantity import Quantity, in_gib

IMAGE = r"^[A-Za-z0-9][A-Za-z0-9_./-]*(:[0-9]+/[A-Za-z0-9_./-]+)?(:[A-Za-z0-9_.-]+)?(@sha256:[0-9a-f]{64})?$"
WORK_URI = rf"^(s3|gs|az)://([a-z0-9]|\{{namespace\}})([a-z0-9._-]|\{{namespace\}})*(/[^{BLANK}?#]*)?$"
URL = rf"^https?://[^{BLANK}]+$"
CONTAINER_RESOURCE = rf"^(cpu|memory|ephemeral-storage|{SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?)$"
NVIDIA = "nvidia.com/gpu"
GPU_RESOURCE = f"(has(self.accelerator.gpu.resourceName) ? self.accelerator.gpu.resourceName : '{NVIDIA}')"
RESOURCE_NAME = rf"^{SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=IMAGE)]
DEFAULT_RETENTION_SECONDS = 7 * 24 * 3600
DEFAULT_HISTORY_LIMIT = 3


class GpuSpec(WireModel):
    """The GPUs of a class, all of one kind."""

    resource_name: Annotated[str, Field(min_length=1, max_length=244, pattern=RESOURCE_NAME)] = NVIDIA
    """Extended resource that a train pod requests, one per GPU."""
    memory: Quantity
    """Memory of one GPU, for which runs are sized."""


class CpuSpec(WireModel):
    """A class without GPUs."""

    memory: Quantity | None = None
    """Memory that all processes of a run share, for which runs are sized. Unset: memory does not limit runs."""


class AcceleratorSpec(WireModel):
    """What train pods compute on. Exactly one kind."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.gpu) != has(self.cpu)", "accelerator takes exactly one of gpu and cpu."))
    )

    gpu: GpuSpec | None = None
    """GPUs. A run of such a class never falls back to the CPU."""
    cpu: CpuSpec | None = None
    """The CPU, for small models and trials."""

    @property
    def kind(self) -> AcceleratorKind:
        """What train pods compute on."""
        return AcceleratorKind.CPU if self.gpu is None else AcceleratorKind.GPU

    @property
    def memory_gib(self) -> float | None:
        """Memory that runs are sized against, in GiB."""
        offered = self.gpu or self.cpu
        return in_gib(offered.memory) if offered is not None and offered.memory is not None else None


class CredentialsSpec(WireModel):
    """Credentials of pods for the object store. Exactly one kind."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.secretName) != has(self.serviceAccountName)",
                "storage.credentials takes exactly one of secretName and serviceAccountName.",
            ),
        )
    )

    secret_name: ObjectName | None = None
    """Secret in the namespace of the run with the keys for the store of workUri, and for the stores of datasets and
    outputs: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally AWS_SESSION_TOKEN for s3://,
    GOOGLE_SERVICE_ACCOUNT_KEY for gs://, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or
    AZURE_STORAGE_SAS_KEY for az://."""
    service_account_name: ObjectName | None = None
    """ServiceAccount in the namespace of the run that carries a workload identity."""


class WorkRetentionSpec(WireModel):
    """How long the prepared rows and checkpoints of a finished run stay in the bucket. Then a Job in the namespace of
    the run deletes them, with the credentials of its pods. Data report and adapter stay. A change also applies to
    finished runs whose work is still there."""

    after_success_seconds: Annotated[int, Field(ge=0, le=LONGEST_DURATION)] | None = None
    """Seconds after the end of a run that is Ready. Unset: nothing is deleted."""
    after_failure_seconds: Annotated[int, Field(ge=0, le=LONGEST_DURATION)] | None = None
    """Seconds after the end of a run that failed. Unset: nothing is deleted."""


class StorageSpec(WireModel):
    """The object store."""

    work_uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=WORK_URI)]
    """Folder for prepared rows and checkpoints (s3://, gs:// or az://); {namespace} stands for the namespace of the
    run, also in the name of the bucket."""
    endpoint: Annotated[str, Field(min_length=1, max_length=1024, pattern=URL)] | None = None
    """URL of an S3-compatible store, for s3:// URIs. Unset: AWS."""
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Region of the s3:// buckets."""
    credentials: CredentialsSpec
    """Credentials of pods for the object store."""
    work_retention: WorkRetentionSpec = WorkRetentionSpec()
    """How long prepared rows and checkpoints stay after the end of a run."""


Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]
"""Amounts by name of the resource."""


LONGEST_RESOURCE = r"^([^/]{1,244}/)?[^/]+$"
"""What stands before the slash has at most 253 characters also in a quota, where it begins with `requests.`."""


def _resource_names(field: str) -> dict[str, str]:
    return rule(
        f"!has(self.{field}) || "
        f"self.{field}.all(key, key.matches('{CONTAINER_RESOURCE}') && key.matches('{LONGEST_RESOURCE}'))",
        f"The keys of {field} are cpu, memory, ephemeral-storage or extended resources (example.com/name), "
        "with at most 244 characters before the slash.",
        field=field,
    )


class ContainerResources(WireModel):
    """Resources of a container, as in a pod's."""

    model_config = ConfigDict(json_schema_extra=rules(_resource_names("requests"), _resource_names("limits")))

    requests: Quantities | None = None
    """Resources that the node must have available."""
    limits: Quantities | None = None
    """Resources that the container may use at most."""


class PrepareSpec(Scheduling):
    """Prepare pods."""

    image: Image | None = None
    """Image of prepare pods: the slim one without torch (target prepare of trainer-image/Dockerfile). Unset:
    spec.image."""
    resources: ContainerResources = ContainerResources()
    """Resources of the container. Unset: requests cpu 2, memory 4Gi and ephemeral-storage as much as scratch, limits
    memory as requested."""
    scratch: Quantity = "20Gi"
    """Size limit of the volume for model weights and rows, and of the one for temporary files. A pod that exceeds it is
    evicted."""


class TrainSpec(Scheduling):
    """Train pods."""

    resources: ContainerResources = ContainerResources()
    """Resources of the container in addition to the GPUs. Unset: requests cpu 4, memory 32Gi and ephemeral-storage as
    much as scratch, limits memory as requested."""
    scratch: Quantity = "100Gi"
    """Size limit of the volume for model weights, rows and compiled kernels, and of the one for temporary files. A pod
    that exceeds it is evicted."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, through which processes and NCCL exchange data. What they put there counts as the container's
    memory."""
    placement: Placement = Placement.QUEUE
    """What keeps two runs on several nodes from holding some nodes each and waiting for the others. Queue: a queue of
    Kueue, so such a run needs spec.queueName or defaults.queueName. Scheduler: the scheduler of schedulerName, which
    the platform team has set up to start all pods of a Job or none. PodByPod: nothing; pods that wait for others end as
    PeerLost after 15 minutes."""


_REST = rf"[^*{BLANK}]*"
_FOLDERS = rf"(/|/{_REST}[^*{BLANK}}}])\*|/{_REST}"
"""Below a bucket. A * may only be at the end, and neither directly after the bucket's name nor after a placeholder:
team-a* would also mean team-ab."""
_BUCKET_ENTRY = rf"(s3|gs|az)://[^*/{BLANK}]+({_FOLDERS})?"
_LOCAL_ENTRY = rf"(pvc|configmap)://{_REST}\*?"
MODEL_ENTRY = rf"^({_BUCKET_ENTRY}|{_LOCAL_ENTRY}|[A-Za-z0-9_./-]*\*|[A-Za-z0-9_./-]+)$"
DATA_ENTRY = rf"^({_BUCKET_ENTRY}|{_LOCAL_ENTRY}|hf://datasets/{_REST}\*?)$"
OUTPUT_ENTRY = rf"^{_BUCKET_ENTRY}$"
_NAME_PART = r"([-a-z0-9.]|\{namespace\})"
KUEUE_ENTRY = rf"^({_NAME_PART}+|({_NAME_PART}*[-a-z0-9.])?\*)$"


Models = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256, pattern=MODEL_ENTRY)], ...],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
]
Datasets = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256, pattern=DATA_ENTRY)], ...],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
]
Outputs = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256, pattern=OUTPUT_ENTRY)], ...],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
]
KueueNames = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256, pattern=KUEUE_ENTRY)], ...],
    Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
]


class ModelCacheSpec(WireModel):
    """A volume that keeps base models: prepare downloads a model once, and train pods read it from there instead of the
    hub or the bucket."""

    claim_name: ObjectName
    """PersistentVolumeClaim in the namespace of the run, ReadWriteMany unless all of its pods run on one node.
    Namespaces share nothing."""


class AllowedSpec(WireModel):
    """What runs of this class may name. An entry is one address or name, or the beginning of many followed by a *;
    {namespace} stands for the namespace of the run. What is unset is not restricted."""

    models: Models | None = None
    """Base models: meta-llama/*, s3://models/*, s3://{namespace}/models/*. A model of claimRef has the address
    pvc://claim/path."""
    datasets: Datasets | None = None
    """Rows to train and to evaluate on (dataset, dataset.sources, evaluation.dataset, evaluation.datasets):
    s3://{namespace}/*, hf://datasets/*. Rows of configMapRef have the address configmap://name/key, those of claimRef
    pvc://claim/path."""
    outputs: Outputs | None = None
    """Where adapters are published (output.uri): s3://{namespace}/*."""
    queues: KueueNames | None = None
    """LocalQueues of Kueue (queueName): gpus, {namespace}-gpus. A run that names none gets defaults.queueName, listed
    or not."""
    priority_classes: KueueNames | None = None
    """WorkloadPriorityClasses of Kueue (workloadPriorityClassName). A run that names none gets
    defaults.workloadPriorityClassName, listed or not."""


class LimitsSpec(WireModel):
    """Limits for runs of this class. An unset field sets no limit, except gpus and nodes."""

    gpus: Annotated[int, Field(ge=1, le=16)] = 1
    """Maximum of spec.parallelism.gpus: GPUs per node, or processes on a CPU class."""
    nodes: Annotated[int, Field(ge=1, le=16)] = 1
    """Maximum of spec.parallelism.nodes."""
    r: Annotated[int, Field(ge=1, le=512)] | None = None
    """Maximum of spec.lora.r."""
    max_seq_length: Annotated[int, Field(ge=32, le=1_048_576)] | None = None
    """Maximum of spec.model.maxSeqLength."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Maximum of optimizer steps. Checked against training.maxSteps on creation, and against epochs when prepare has
    counted the rows."""
    max_runtime_seconds: Annotated[int, Field(ge=60, le=LONGEST_DURATION)] | None = None
    """Maximum of spec.maxRuntimeSeconds, and its value for runs that leave it unset."""
    max_queue_seconds: Annotated[int, Field(ge=60, le=LONGEST_DURATION)] | None = None
    """Seconds for which a run may wait for others at a stretch, in line (activeRunsPerNamespace) or in a queue of
    Kueue. After that it fails (QueueTimeout)."""
    active_runs_per_namespace: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Maximum of runs of one namespace that are active at a time. A run is active from its first attempt on, until it
    ends or is suspended. Further ones wait for their turn (WaitingForTurn), the oldest first."""


class DefaultsSpec(WireModel):
    """Defaults for runs that leave a field unset. A field that is also unset here has the product's default."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!({given('training.maxSteps')} && {given('training.numTrainEpochs')})",
                "defaults.training takes maxSteps or numTrainEpochs, not both: remove one.",
                field="training",
            ),
        )
    )

    hugging_face: HuggingFaceSpec = HuggingFaceSpec()
    """Defaults for spec.huggingFace. Where the namespace of the run lacks the Secret, the hub is read without a
    token."""
    model: ModelSettings = ModelSettings()
    """Defaults for spec.model."""
    lora: LoraSpec = LoraSpec()
    """Defaults for spec.lora."""
    training: TrainingSettings = TrainingSettings()
    """Defaults for spec.training. A run that sets maxSteps or numTrainEpochs gets no default for either."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Defaults for spec.evaluation."""
    queue_name: KueueName | None = None
    """Default for spec.queueName. Every namespace with runs of the class needs a LocalQueue of that name."""
    workload_priority_class_name: KueueName | None = None
    """Default for spec.workloadPriorityClassName."""


def _default_within(default: str, limit: str) -> dict[str, str]:
    return rule(
        f"!({given(f'defaults.{default}')} && {given(f'limits.{limit}')})"
        f" || self.defaults.{default} <= self.limits.{limit}",
        f"defaults.{default} is more than limits.{limit}: no run could use it. Lower it or raise the limit.",
        field="defaults",
    )


def _names_no_gpu(part: str) -> dict[str, str]:
    named = f"train.resources.{part}"
    return rule(
        f"!has(self.accelerator.gpu) || !({given(named)}) || !({GPU_RESOURCE} in self.{named})",
        f"{named} may not name the GPUs of the class: the operator requests them. Remove the resource.",
        field="train",
    )


class LoraFineTuneClassSpec(WireModel):
    """Where runs of this class train, on what, and where their work is kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!({given('pod.serviceAccountName')}) || !has(self.storage.credentials.serviceAccountName)",
                "pod.serviceAccountName and storage.credentials.serviceAccountName set the same field: remove one.",
                field="pod",
            ),
            *(_names_no_gpu(part) for part in ("requests", "limits")),
            rule(
                f"{value('train.placement', Placement.QUEUE)} != '{Placement.SCHEDULER}'"
                f" || {given('train.schedulerName')}",
                "train.placement Scheduler needs train.schedulerName: name the scheduler, or choose another placement.",
                field="train",
            ),
            _default_within("lora.r", "r"),
            _default_within("model.maxSeqLength", "maxSeqLength"),
            _default_within("training.maxSteps", "maxSteps"),
        )
    )

    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose runs may use this class, by their labels. Unset: all. A run that has begun keeps its class."""
    paused: bool = False
    """True: no attempt of a run of this class starts, also of runs that have begun. Attempts that run, or that wait in
    a queue of Kueue, go on."""
    image: Image
    """Trainer image. Name it by digest (registry.example.com/trainer@sha256:...): a tag may mean another image
    tomorrow."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls the images."""
    accelerator: AcceleratorSpec
    """What one train pod computes on."""
    storage: StorageSpec
    """The object store."""
    hub_endpoint: Annotated[str, Field(min_length=1, max_length=1024, pattern=URL)] | None = None
    """URL of a mirror of the Hugging Face Hub for models and datasets (HF_ENDPOINT). Unset: the hub itself."""
    prepare: PrepareSpec = PrepareSpec()
    """Image, resources and scheduling of prepare pods."""
    train: TrainSpec = TrainSpec()
    """Resources and scheduling of train pods, except the accelerator."""
    pod: PodOverlay = PodOverlay()
    """Additions to all pods: labels, annotations, variables, volumes, pull secrets."""
    model_cache: ModelCacheSpec | None = None
    """Volume that keeps base models between runs. Unset: every train pod downloads its own copy."""
    allowed: AllowedSpec = AllowedSpec()
    """Models, datasets and outputs that runs may use. Unset: all."""
    limits: LimitsSpec = LimitsSpec()
    """Limits for runs."""
    defaults: DefaultsSpec = DefaultsSpec()
    """Defaults for runs that leave a field unset."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=3600)] = 120
    """Seconds that a train pod has to save its checkpoint when it is asked to stop."""
    liveness_timeout_seconds: Annotated[int, Field(ge=30, le=86400)] = 600
    """Seconds without an answer to the liveness probe after which the kubelet kills a pod. The operator then retries
    the attempt. A healthy pod may be silent for minutes while it loads weights or compiles kernels."""
    job_retention_seconds: Annotated[int, Field(ge=0, le=LONGEST_DURATION)] = DEFAULT_RETENTION_SECONDS
    """Seconds after which Jobs, pods, ConfigMap and Service of a finished run are deleted, unless the run sets its own.
    The LoraFineTune and its status stay. A change also applies to finished runs."""
    failed_jobs_history_limit: Annotated[int, Field(ge=0, le=20)] = DEFAULT_HISTORY_LIMIT
    """Number of failed attempts of an unfinished run whose Jobs are kept, with pods and logs. Older Jobs are deleted;
    status keeps the records of all attempts."""


class ClassProblem(WireModel):
    """Unfinished runs that need a person, all for the same reason."""

    reason: Annotated[str, Field(max_length=128)]
    """Reason of their Ready condition, whose remedy the failure catalogue names."""
    runs: int
    """Number of such runs."""


class ClassStatus(WireModel):
    """Whether runs can use the class, and how many do."""

    observed_generation: int | None = None
    """metadata.generation that this status was derived from."""
    conditions: Conditions = ()
    """Ready is True while runs can use the class. Stalled is True while they cannot, and its message says why."""
    unfinished_runs: int | None = None
    """Number of runs that were resolved against the class and are not Finished."""
    problems: Annotated[
        tuple[ClassProblem, ...],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
        ),
    ] = ()
    """Why unfinished runs of the class stand still (their Stalled is True), most frequent reason first. Names of runs
    are not shown, because every namespace may read the class."""
