"""Explains why a pod does not start or does not end, and who can fix it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import JobView, PodView, Refusal
from lora_operator.planning.running_time import NODE_PATIENCE, lost

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
POD_PATIENCE = timedelta(seconds=3)
"""How long after its creation a Job may have no pod before the operator looks for the cause."""
MOUNT_PATIENCE = timedelta(seconds=10)
"""How long after its creation a scheduled pod may have no container before the operator looks for the cause."""
SIDECAR_PATIENCE = timedelta(minutes=1)
"""How long other containers may run on when the trainer's has ended."""
MOUNT_RECHECK = timedelta(seconds=30)
POD_RECHECK = timedelta(seconds=10)
LONGEST_LOOK = timedelta(minutes=1)
WEBHOOK_AWAY = "failed calling webhook"
"""Part of the API server's message when a required admission webhook does not answer. Nothing was created then."""
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


def less_often(since: datetime, *, now: datetime) -> timedelta:
    """When to look again at something that has not changed since then: the longer it waits, the later.

    A busy Job controller needs time. A thousand Jobs that wait for it, or for quota, must not cause a request each
    every few seconds."""
    return min(max(now - since, POD_PATIENCE), LONGEST_LOOK)


def next_look(job: JobView, *, ended: datetime | None, now: datetime) -> timedelta | None:
    """When to look again why a pod of the Job does not start or end; None where the watches report it."""
    looks = (_next_look_at_start(job, now=now), next_look_at_end(job.pods, ended=ended, now=now))
    return min((look for look in looks if look is not None), default=None)


def next_look_at_end(pods: tuple[PodView, ...], *, ended: datetime | None, now: datetime) -> timedelta | None:
    """When one of these pods should have ended. `ended` is as for `overdue`."""
    due = [pod.delete_by + NODE_PATIENCE for pod in pods if pod.delete_by is not None and not pod.over]
    due += [ended + SIDECAR_PATIENCE] if ended is not None and any(pod.beside for pod in pods) else []
    return min((moment - now for moment in due if moment > now), default=None)


def _next_look_at_start(job: JobView, *, now: datetime) -> timedelta | None:
    if job.lacks_pod:
        return less_often(job.created, now=now) if job.pod_refusal is None else POD_RECHECK
    if mounting := [pod.created for pod in job.pods if pod.mounting]:
        left = max(mounting) + MOUNT_PATIENCE - now
        return left if left > timedelta() else MOUNT_RECHECK
    return None


@dataclass(frozen=True, kw_only=True)
class PodProblem:
    """Why a pod does not run or does not end. The run continues once the cause is gone; nothing is lost meanwhile."""

    reason: Reason
    message: str
    needs_person: bool
    """Whether a person must act. False: waiting for room can be enough."""


def problem_of(job: JobView) -> PodProblem | None:
    """Why a pod of the Job does not start, or None when no cause is known."""
    if job.pod_refusal is not None and job.lacks_pod:
        # The pod gets another name each time that the Job controller retries.
        why = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", job.pod_refusal)
        return _refused(f"the pod of Job {job.name}", why, Reason.POD_REFUSED)
    problems = (_waiting_problem(pod) for pod in job.newest_pods)
    return next((problem for problem in problems if problem is not None), None)


def overdue(pods: tuple[PodView, ...], *, ended: datetime | None, now: datetime) -> PodProblem | None:
    """Why one of these pods does not end although it should have, or None where none is overdue.

    `ended` is when the trainer was first seen to have ended, as their attempt's record has it."""
    for pod in pods:
        if lost(pod, now=now):
            return _lost_node(pod)
        if ended is not None and pod.beside and pod.termination is not None and now >= ended + SIDECAR_PATIENCE:
            return _sidecar(pod)
    return None


def _lost_node(pod: PodView) -> PodProblem:
    message = (
        f"Pod {pod.name} on node {pod.node} should have ended by {pod.delete_by:%Y-%m-%d %H:%M:%S} UTC and is still "
        "there: its node does not answer, or its kubelet cannot end it. No other pod starts before it is gone, because "
        "both would write to the same checkpoints. If the node is down, ask the platform team to make sure that it is "
        f"off, and then to run kubectl taint nodes {pod.node} node.kubernetes.io/out-of-service=down:NoExecute or "
        f"kubectl delete node {pod.node}. The run then continues, as it does when the node comes back."
    )
    return PodProblem(reason=Reason.NODE_LOST, message=message, needs_person=True)


def _sidecar(pod: PodView) -> PodProblem:
    others = ", ".join(pod.beside)
    message = (
        f"The trainer in pod {pod.name} has ended, but container {others} keeps the pod running. Delete the pod; the "
        "run then continues. Inject the container as a native sidecar (an init container with restartPolicy Always), "
        "or exclude the pods from the injection by spec.pod of the LoraFineTuneClass."
    )
    return PodProblem(reason=Reason.SIDECAR_RUNNING, message=message, needs_person=True)


def problem_of_child(refusal: Refusal) -> PodProblem:
    """Why a run cannot continue when the API server refused to create one of its children."""
    return _refused(refusal.child, refusal.why, Reason.CHILD_REFUSED)


def _refused(what: str, why: str, reason: Reason) -> PodProblem:
    if "exceeded quota" in why:
        message = f"The namespace's quota has no room for {what}: {why}. The run starts when there is room."
        return PodProblem(reason=Reason.QUOTA_EXCEEDED, message=message, needs_person=False)
    if WEBHOOK_AWAY in why:
        retrying = "The Job controller" if reason is Reason.POD_REFUSED else "The operator"
        message = (
            f"The API server cannot create {what}: {why}. {retrying} retries. If this continues, ask the platform team "
            "to fix the webhook."
        )
        return PodProblem(reason=reason, message=message, needs_person=False)
    message = (
        f"The API server refuses {what}: {why}. Ask the platform team to fix the policy; the run then continues. If "
        "they fix the LoraFineTuneClass instead, recreate the run: a run keeps the class that it started with."
    )
    return PodProblem(reason=reason, message=message, needs_person=True)


def _waiting_problem(pod: PodView) -> PodProblem | None:
    if pod.unschedulable is not None:
        message = f"The scheduler finds no node for pod {pod.name}: {pod.unschedulable}"
        return PodProblem(reason=Reason.UNSCHEDULABLE, message=message, needs_person=False)
    if pod.waiting_reason in IMAGE_REASONS:
        message = (
            f"The kubelet cannot pull the trainer image of the class: {pod.waiting_message} "
            "Ask the platform team to fix spec.image or spec.prepare.image of the LoraFineTuneClass, or its access to "
            "the registry."
        )
        return PodProblem(reason=Reason.IMAGE_PULL_FAILED, message=message, needs_person=True)
    if pod.waiting_reason not in CONFIG_REASONS:
        return None
    if "secret" in pod.waiting_message.lower():
        # The kubelet does not always name it: on a busy node it says only that its cache of Secrets is not ready.
        needed = f" It needs {' and '.join(map(str, pod.secrets))}." if pod.secrets else ""
        message = (
            f"Pod {pod.name} waits for a Secret: {pod.waiting_message}.{needed} Create what is missing in this "
            "namespace (huggingFace.tokenSecretRef, output.signing.keySecretRef, or storage.credentials.secretName of "
            "the class); the pod then starts."
        )
        return PodProblem(reason=Reason.SECRET_NOT_FOUND, message=message, needs_person=True)
    message = f"The kubelet cannot create the container of pod {pod.name}: {pod.waiting_message}"
    return PodProblem(reason=Reason.POD_CONFIG_INVALID, message=message, needs_person=True)
