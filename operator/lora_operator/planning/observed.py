"""Small frozen views of the API server's objects, with only the fields that decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from lora_trainer.contract.progress import Progress
from pydantic import ValidationError

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import ClassStatus, LoraFineTuneClassSpec
from lora_operator.naming import (
    ATTEMPT_LABEL,
    CONTAINER,
    DEFAULT_CLASS_ANNOTATION,
    INDEX_ANNOTATION,
    QUEUE_LABEL,
    RUN_KIND,
    RUN_UID_LABEL,
    STAGE_LABEL,
    RunId,
    Stage,
)
from lora_operator.planning.line import Line
from lora_operator.workloads.resolved import ResolvedRun

DISRUPTED_REASON = "PodFailurePolicy"
"""Reason of a Job that a rule of its podFailurePolicy failed. For a Job of several pods, all rules are disruptions
(workloads/job.py)."""


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
    refusal: str | None = None
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
    refused: Refusal | None = None
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


def class_view(body: dict[str, Any]) -> ClassView:
    """The view of a LoraFineTuneClass."""
    metadata = body["metadata"]
    spec, error = None, None
    try:
        spec = LoraFineTuneClassSpec.model_validate(body["spec"])
    except ValidationError as problem:
        error = first_error(problem)
    is_default = metadata.get("annotations", {}).get(DEFAULT_CLASS_ANNOTATION) == "true"
    return ClassView(
        name=metadata["name"],
        is_default=is_default,
        spec=spec,
        error=error,
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        status=_class_status(body.get("status", {})),
    )


def _class_status(status: dict[str, Any]) -> ClassStatus:
    """The status as it was written; an empty one, which is then written again, where nobody can read it."""
    try:
        return ClassStatus.model_validate(status, extra="ignore")
    except ValidationError:
        return ClassStatus()


def first_error(problem: ValidationError, *, root: str = "spec") -> str:
    """The first validation error, as `field: message`."""
    first = problem.errors(include_url=False, include_input=False)[0]
    return f"{root}.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


class Foreign(ValueError):
    """An object has labels of this operator, which did not make it."""


def _owner(metadata: dict[str, Any], *, kind: str) -> str:
    """The uid of the controller that owns the object. Raises Foreign where it is none of that kind."""
    owner = next((owner for owner in metadata.get("ownerReferences", ()) if owner.get("controller")), {})
    if owner.get("kind") != kind:
        raise Foreign(f"no {kind} owns it")
    return owner["uid"]


def job_view(body: dict[str, Any]) -> JobView:
    """The view of a Job that carries this operator's labels. Raises Foreign, KeyError, TypeError or ValueError where
    another made it: labels are anyone's to set."""
    metadata, status = body["metadata"], body.get("status", {})
    if _owner(metadata, kind=RUN_KIND) != metadata["labels"][RUN_UID_LABEL]:
        raise Foreign("its label names another run than the one that owns it")
    ends = {
        condition["type"]: condition
        for condition in status.get("conditions", ())
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed")
    }
    finished = next(iter(ends), None)
    end = ends.get(finished or "", {})
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        run=RunId(metadata["namespace"], metadata["labels"][RUN_UID_LABEL]),
        stage=Stage(metadata["labels"][STAGE_LABEL]),
        attempt=int(metadata["labels"][ATTEMPT_LABEL]),
        created=_time(metadata["creationTimestamp"]),
        suspended=bool(body["spec"].get("suspend")),
        suspended_since=_since(status, "Suspended"),
        queue=metadata["labels"].get(QUEUE_LABEL),
        deleting="deletionTimestamp" in metadata,
        finished=finished,
        finish_message=end.get("message", ""),
        nodes=body["spec"].get("completions", 1),
        disrupted=end.get("reason") == DISRUPTED_REASON,
    )


def pod_view(body: dict[str, Any]) -> PodView:
    """The view of a pod that carries this operator's labels. Raises as `job_view` does."""
    metadata, status = body["metadata"], body.get("status", {})
    statuses = status.get("containerStatuses", ())
    container = next((entry for entry in statuses if entry["name"] == CONTAINER), {}).get("state", {})
    disruption = _true(status, "DisruptionTarget")
    waiting = container.get("waiting", {})
    running = container.get("running") or container.get("terminated") or {}
    return PodView(
        name=metadata["name"],
        run=RunId(metadata["namespace"], metadata["labels"][RUN_UID_LABEL]),
        job_uid=_owner(metadata, kind="Job"),
        phase=status.get("phase", "Pending"),
        created=_time(metadata["creationTimestamp"]),
        delete_by=_time(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
        index=int(metadata.get("annotations", {}).get(INDEX_ANNOTATION, 0)),
        disrupted=disruption is not None,
        reason=status.get("reason") or (disruption or {}).get("reason", ""),
        message=status.get("message") or (disruption or {}).get("message", ""),
        node=body.get("spec", {}).get("nodeName"),
        scheduled=_since(status, "PodScheduled"),
        ip=status.get("podIP"),
        started=_time(running["startedAt"]) if running.get("startedAt") else None,
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message", ""),
        unschedulable=_unschedulable(status),
        secrets=_secrets(body.get("spec", {})),
        beside=tuple(
            entry["name"] for entry in statuses if entry["name"] != CONTAINER and "running" in entry.get("state", {})
        ),
        termination=_termination(container.get("terminated")),
    )


def _true(status: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The condition of this type, where it is True."""
    conditions = status.get("conditions", ())
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def _since(status: dict[str, Any], kind: str) -> datetime | None:
    """When the condition of this type became True, if it is."""
    moment = (_true(status, kind) or {}).get("lastTransitionTime")
    return _time(moment) if moment else None


def _unschedulable(status: dict[str, Any]) -> str | None:
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("message", "") if condition.get("reason") == "Unschedulable" else None
    return None


def _secrets(spec: dict[str, Any]) -> tuple[RequiredSecret, ...]:
    """The Secrets that the trainer's environment requires."""
    containers = (container for container in spec.get("containers", ()) if container["name"] == CONTAINER)
    variables = (variable for container in containers for variable in container.get("env", ()))
    references = (variable.get("valueFrom", {}).get("secretKeyRef") for variable in variables)
    keys: dict[str, list[str]] = {}
    for reference in references:
        if reference is not None and not reference.get("optional"):
            keys.setdefault(reference["name"], []).append(reference["key"])
    return tuple(RequiredSecret(name=name, keys=tuple(sorted(of))) for name, of in sorted(keys.items()))


def _termination(terminated: dict[str, Any] | None) -> Termination | None:
    if not terminated or not terminated.get("finishedAt"):
        return None
    return Termination(
        exit_code=terminated["exitCode"],
        kubelet_reason=terminated.get("reason", ""),
        text=terminated.get("message", ""),
        finished=_time(terminated["finishedAt"]),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
