"""What holds a pod back before it runs, in the words of the person who can mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from lora_operator.api.reasons import Reason
from lora_operator.planning.observed import JobView, PodView, Refusal

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
POD_PATIENCE = timedelta(seconds=3)
"""How long after its creation a Job may be without a pod before somebody asks why."""
MOUNT_PATIENCE = timedelta(seconds=10)
"""How long after its creation a pod with a node may be without its container before somebody asks why."""
MOUNT_RECHECK = timedelta(seconds=30)
POD_RECHECK = timedelta(seconds=10)
LONGEST_LOOK = timedelta(minutes=1)
WEBHOOK_AWAY = "failed calling webhook"
"""In what the API server says when an admission webhook that it must ask does not answer: nothing was created then."""
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


def less_often(since: datetime, *, now: datetime) -> timedelta:
    """When to look again at what has stood still for so long. A Job controller with much to do takes its time, and a
    thousand Jobs that wait for it, or for a quota, are not asked about every few seconds."""
    return min(max(now - since, POD_PATIENCE), LONGEST_LOOK)


def next_look(job: JobView, *, now: datetime) -> timedelta | None:
    """When to ask what holds the Job's pod back; None where the watches tell."""
    if job.lacks_pod:
        return less_often(job.created, now=now) if job.refusal is None else POD_RECHECK
    if mounting := [pod.created for pod in job.pods if pod.mounting]:
        left = max(mounting) + MOUNT_PATIENCE - now
        return left if left > timedelta() else MOUNT_RECHECK
    return None


@dataclass(frozen=True, kw_only=True)
class PodProblem:
    """Why a pod does not run. It heals by itself once the cause is gone; nothing is lost meanwhile."""

    reason: Reason
    message: str
    needs_person: bool
    """Whether somebody has to act, as opposed to waiting for room."""


def problem_of(job: JobView) -> PodProblem | None:
    """What holds a pod of the Job back, or None when nothing is known to."""
    if job.refusal is not None and job.lacks_pod:
        # The pod's name is another one each time that the Job controller tries.
        why = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", job.refusal)
        return _refused(f"the pod of Job {job.name}", why, Reason.POD_REFUSED)
    problems = (_held_back(pod) for pod in job.newest_pods)
    return next((problem for problem in problems if problem is not None), None)


def problem_of_child(refusal: Refusal) -> PodProblem:
    """What holds a run back whose child the API server would not take."""
    return _refused(refusal.child, refusal.why, Reason.CHILD_REFUSED)


def _refused(what: str, why: str, reason: Reason) -> PodProblem:
    if "exceeded quota" in why:
        message = f"The namespace's quota has no room for {what}: {why}. It starts when there is room."
        return PodProblem(reason=Reason.QUOTA_EXCEEDED, message=message, needs_person=False)
    if WEBHOOK_AWAY in why:
        message = (
            f"The API server cannot create {what}: {why}. It is tried again and again; if that lasts, ask the platform "
            "team to mend the webhook."
        )
        return PodProblem(reason=reason, message=message, needs_person=False)
    message = (
        f"The API server refuses {what}: {why}. Ask the platform team to mend the policy, and the run goes on by "
        "itself, or the LoraFineTuneClass, and create the run anew: it keeps the class that it began with."
    )
    return PodProblem(reason=reason, message=message, needs_person=True)


def _held_back(pod: PodView) -> PodProblem | None:
    if pod.unschedulable is not None:
        message = f"No node has room for pod {pod.name}: {pod.unschedulable}"
        return PodProblem(reason=Reason.UNSCHEDULABLE, message=message, needs_person=False)
    if pod.waiting_reason in IMAGE_REASONS:
        message = (
            f"The kubelet cannot pull the trainer image of the class: {pod.waiting_message} "
            "Ask the platform team to mend spec.image or spec.prepare.image of the LoraFineTuneClass, or its access to "
            "the registry."
        )
        return PodProblem(reason=Reason.IMAGE_PULL_FAILED, message=message, needs_person=True)
    if pod.waiting_reason not in CONFIG_REASONS:
        return None
    if "secret" in pod.waiting_message.lower():
        message = (
            f"Pod {pod.name} waits for a Secret: {pod.waiting_message}. Create the Secret with that key in this "
            "namespace (huggingFace.tokenSecretRef, output.signing.keySecretRef, or storage.credentials.secretName of "
            "the class); the pod then starts by itself."
        )
        return PodProblem(reason=Reason.SECRET_NOT_FOUND, message=message, needs_person=True)
    message = f"The kubelet cannot create the container of pod {pod.name}: {pod.waiting_message}"
    return PodProblem(reason=Reason.POD_CONFIG_INVALID, message=message, needs_person=True)
