"""The Job of one attempt. The operator only creates it: afterwards its template and suspend belong to the Job
controller and to queues."""

from __future__ import annotations

from typing import Any

from lora_trainer.contract.exits import ExitCode

from lora_operator.naming import (
    ATTEMPT_LABEL,
    CONTAINER,
    PRIORITY_CLASS_LABEL,
    QUEUE_LABEL,
    STAGE_LABEL,
    Stage,
    job_name,
)
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.metadata import child_metadata
from lora_operator.workloads.pod import pod_template

CLEANUP_SECONDS = 3600
"""Seconds after which a cleanup Job fails, because nothing depends on it: it must not wait for a node forever."""
DISRUPTIONS = (
    # Preemption, drain and eviction are no failures.
    {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    # A pod that was asked to stop and left a checkpoint has not failed either.
    {"onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.Interrupted)]}},
)


def failure_policy(*, nodes: int) -> dict[str, Any]:
    """The podFailurePolicy for disruptions.

    The Job controller replaces a single pod, even without the operator. A replacement of one of several pods could not
    join the others during training, so the Job fails; its status keeps the cause when the pods are gone.
    """
    action = "Ignore" if nodes == 1 else "FailJob"
    return {"rules": [{"action": action, **disruption} for disruption in DISRUPTIONS]}


def queue_labels(request: StageRequest) -> dict[str, str]:
    """The labels that Kueue reads. Prepare and cleanup Jobs are not queued: they need no accelerator, and a run that
    cannot work fails in prepare before it waits in a queue."""
    if request.stage is not Stage.TRAIN:
        return {}
    spec, defaults = request.run.spec, request.resolved.class_spec.defaults
    labels = {
        QUEUE_LABEL: spec.queue_name or defaults.queue_name,
        PRIORITY_CLASS_LABEL: spec.workload_priority_class_name or defaults.workload_priority_class_name,
    }
    return {label: value for label, value in labels.items() if value is not None}


def stage_job(request: StageRequest) -> dict[str, Any]:
    """The Job. Any failure ends it (backoffLimit 0), and the operator decides whether to create another."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": child_metadata(
            request.run,
            name=job_name(request.run.name, request.stage, request.attempt),
            labels={STAGE_LABEL: request.stage.value, ATTEMPT_LABEL: str(request.attempt)} | queue_labels(request),
        ),
        "spec": {
            "backoffLimit": 0,
            **({"activeDeadlineSeconds": CLEANUP_SECONDS} if request.stage is Stage.CLEANUP else {}),
            **({"completionMode": "Indexed"} if request.nodes > 1 else {}),
            "completions": request.nodes,
            "parallelism": request.nodes,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": failure_policy(nodes=request.nodes),
            "template": pod_template(request),
        },
    }
