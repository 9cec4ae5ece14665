"""Reads the views of observed.py from objects as the API server delivers them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

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
from lora_operator.planning.observed import ClassView, JobView, PodView, RequiredSecret, Termination

DISRUPTED_REASON = "PodFailurePolicy"
"""Reason of a Job that a rule of its podFailurePolicy failed. For a Job of several pods, all rules are disruptions
(workloads/job.py)."""


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
