"""Small frozen views of the API server's objects, with only the fields that decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lora_trainer.contract.progress import Progress

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import ClassStatus, LoraFineTuneClassSpec
from lora_operator.naming import (
    RunId,
    Stage,
)
from lora_operator.planning.line import Line
from lora_operator.workloads.resolved import ResolvedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassView:
    """A LoraFineTuneClass, valid or not."""

    name: str
    is_default: bool
    spec: LoraFineTuneClassSpec | None
    error: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 1
    status: ClassStatus = field(default_factory=ClassStatus)

    @property
    def offer(self) -> tuple[object, ...]:
        """What runs see of it."""
        return self.uid, self.is_default, self.generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Termination:
    """How a container ended."""

    exit_code: int
    kubelet_reason: str
    """The kubelet's reason (Completed, Error, OOMKilled)."""
    text: str
    """The termination message."""
    finished: datetime
    """By the clock of its node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequiredSecret:
    """A Secret that a container takes environment variables from."""

    name: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f'"{self.name}" with {", ".join(self.keys)}'


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """A pod of a Job."""

    name: str
    run: RunId
    job_uid: str
    phase: str
    created: datetime
    delete_by: datetime | None = None
    """When it must have ended, once somebody has deleted it: its grace period is over then."""
    index: int = 0
    """Completion index in a Job of several pods. Pod 0 reports for all of them."""
    disrupted: bool = False
    """Whether it was drained, preempted or evicted."""
    reason: str = ""
    """Why it was evicted, rejected or disrupted, in one word of Kubernetes (Evicted, UnexpectedAdmissionError)."""
    message: str = ""
    """The same as a sentence of the kubelet or of a controller."""
    node: str | None = None
    scheduled: datetime | None = None
    """When it got its node and, with it, its devices: by the clock of the control plane."""
    ip: str | None = None
    started: datetime | None = None
    """When its container started, by the clock of its node."""
    waiting_reason: str | None = None
    waiting_message: str = ""
    unschedulable: str | None = None
    secrets: tuple[RequiredSecret, ...] = ()
    """The Secrets without which its container does not start."""
    beside: tuple[str, ...] = ()
    """Containers that run beside the trainer's, and that keep the pod running when that has ended."""
    termination: Termination | None = None

    @property
    def deleting(self) -> bool:
        """Whether somebody has deleted it."""
        return self.delete_by is not None

    @property
    def over(self) -> bool:
        """Whether the pod itself has ended, which is what its Job waits for."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def why(self) -> str:
        """Why it was evicted, rejected or disrupted; empty where nobody said so."""
        return ": ".join(filter(None, (self.reason, self.message.strip())))

    @property
    def mounting(self) -> bool:
        """Whether it has a node but its container has not started."""
        return self.node is not None and self.started is None and self.termination is None and not self.deleting

    @property
    def active(self) -> bool:
        """Whether its containers run or may still run."""
        return self.termination is None and self.phase in ("Pending", "Running", "Unknown")


def _age(pod: PodView) -> tuple[datetime, bool]:
    return pod.created, pod.termination is None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuePlace:
    """What Kueue reports about a Job that it has suspended."""

    position: int | None = None
    """Position in its LocalQueue, from 1."""
    because: str = ""
    """Why it is not admitted, in Kueue's words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """One attempt at a stage, with its pods."""

    name: str
    uid: str
    run: RunId
    stage: Stage
    attempt: int
    created: datetime
    suspended: bool
    deleting: bool
    finished: str | None
    """Complete or Failed, once the Job has that condition."""
    finish_message: str = ""
    nodes: int = 1
    """Pods that work at the same time."""
    disrupted: bool = False
    """Whether the Job ended because one of several pods was drained, preempted, evicted or asked to stop."""
    suspended_since: datetime | None = None
    """When the Job controller saw the suspension."""
    queue: str | None = None
    """LocalQueue of Kueue that it waits in."""
    place: QueuePlace | None = None
    """Its place in that queue, while Kueue suspends it and reports one."""
    pod_refusal: str | None = None
    """Why the API server refuses its pod, in the Job controller's words."""
    pods: tuple[PodView, ...] = ()

    @property
    def first_pods(self) -> tuple[PodView, ...]:
        """The pods with index 0, which report for the attempt."""
        return tuple(pod for pod in self.pods if pod.index == 0)

    @property
    def success(self) -> PodView | None:
        """The pod that succeeded. Its exit is final before the Job controller sets a condition."""
        return next(
            (pod for pod in self.first_pods if pod.termination is not None and pod.termination.exit_code == 0), None
        )

    @property
    def over(self) -> bool:
        """Whether no pod of the Job will do any more work."""
        return self.finished is not None or self.success is not None

    @property
    def result_lost(self) -> bool:
        """Whether the Job completed but its result cannot be read, because a drain or a person removed the pod."""
        return self.finished == "Complete" and self.success is None

    @property
    def lacks_pod(self) -> bool:
        """Whether the Job controller should have created a pod and has not."""
        return len(self.newest_pods) < self.nodes and not (self.suspended or self.deleting or self.over)

    @property
    def newest_pod(self) -> PodView | None:
        """The newest pod with index 0: a replacement is newer than the pod that it replaces."""
        return max(self.first_pods, key=_age, default=None)

    @property
    def newest_pods(self) -> tuple[PodView, ...]:
        """The newest pod of each index, in order."""
        newest = {pod.index: pod for pod in sorted(self.pods, key=_age)}
        return tuple(newest[index] for index in sorted(newest))

    def with_pods(self, pods: tuple[PodView, ...]) -> JobView:
        """The Job with those of these pods that belong to it."""
        return replace(self, pods=tuple(pod for pod in pods if pod.job_uid == self.uid))


@dataclass(frozen=True, kw_only=True, slots=True)
class PolledProgress:
    """What a pod answered, and when."""

    progress: Progress
    time: datetime
    pod: str
    """Name of the pod."""
    unchanged: timedelta = timedelta()
    """How long its answers have shown the same step and stage."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A child that the API server refused to create."""

    child: str
    """Kind and name."""
    why: str
    """In the API server's words."""


@dataclass(frozen=True, kw_only=True)
class TakenName:
    """A child's name that an object has which the operator did not create."""

    child: str
    """Kind and name."""
    forged: bool = False
    """Whether that object names the run as its owner all the same."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything that the plan for one run depends on, except the time."""

    run: LoraFineTune
    classes: tuple[ClassView, ...]
    jobs: tuple[JobView, ...]
    orphans: tuple[PodView, ...] = ()
    """Pods of the run that may still run although their Job is gone."""
    resolved: ResolvedRun | None = None
    """What the run was resolved to, where its ConfigMap still has what status records."""
    lacks_config_map: bool = False
    """Whether a pod waits for the ConfigMap because it was deleted."""
    polled: PolledProgress | None = None
    output_holder: tuple[str, str] | None = None
    """Namespace and name of another run with the same output, which has begun or comes first."""
    line: Line | None = None
    """The line of its namespace and class; None where the class sets no limit to active runs."""
    paused: bool = False
    """Whether the operator starts no attempts."""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the run's namespace, where its class is not offered to all namespaces."""
    taken: TakenName | None = None
    child_refusal: Refusal | None = None
    """The child that the API server has just refused to create."""
    cleanups: int = 0
    """Cleanup Jobs in the namespace of the run that are not over."""

    @property
    def begun(self) -> bool:
        """Whether the run has had a Job of the operator's. A Job alone proves nothing: people may create one too."""
        return bool(self.run.status.attempts) or (self.run.status.on_record and bool(self.jobs))

    def of(self, stage: Stage) -> tuple[JobView, ...]:
        """The Jobs of one stage, oldest attempt first."""
        return tuple(sorted((job for job in self.jobs if job.stage == stage), key=lambda job: job.attempt))

    @property
    def current_class(self) -> LoraFineTuneClassSpec | None:
        """The class that the run was resolved against, as it is now."""
        return self.class_named(self.run.status.class_name)

    def class_named(self, name: str | None) -> LoraFineTuneClassSpec | None:
        """The class of that name as it is now; None where it is gone or invalid."""
        return next((view.spec for view in self.classes if view.name == name), None)

    def polled_of(self, job: JobView) -> PolledProgress | None:
        """What the newest pod of the Job answered; None where only an earlier one has."""
        pod, polled = job.newest_pod, self.polled
        return polled if polled is not None and pod is not None and pod.name == polled.pod else None
