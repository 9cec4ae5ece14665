"""A fake Job controller: what happens to a Job given its pods. One pass at a time over the store; no clock of its own.

It follows batch/v1 in what an operator sees: pods with the Job's labels, Indexed ones too, tracking finalizers, counts,
suspend, podFailurePolicy (Ignore, FailJob, Count), backoffLimit, activeDeadlineSeconds, TTL, `FailureTarget` and
`SuccessCriteriaMet` before `Failed` and `Complete`. It leaves out the back-off between pods and per-index limits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from .apply import Manager
from .errors import ApiError
from .resources import Obj
from .rules import JOB_TRACKING_FINALIZER
from .store import Store

_MANAGER = Manager(name="kube-controller-manager", operation="Update")
_STATUS = Manager(name="kube-controller-manager", operation="Update", subresource="status")
_FINISHED = ("Complete", "Failed")
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """Why a Job fails."""

    reason: str
    message: str


def condition(obj: Obj, kind: str) -> Obj | None:
    """The condition of that type with status True."""
    conditions = obj.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def is_finished(job: Obj) -> bool:
    return any(condition(job, kind) for kind in _FINISHED)


def sync_all(store: Store) -> None:
    """One pass over all Jobs, then the finalizers of pods whose Job is gone."""
    for job in store.list_objects(store.resources.find("jobs")):
        _sync(store, job)
    for pod in store.list_objects(store.resources.find("pods")):
        if _is_tracked(pod) and _owning_job(store, pod) is None:
            _release(store, pod)


def _sync(store: Store, job: Obj) -> None:
    if job["metadata"].get("deletionTimestamp"):
        for pod in _pods(store, job):
            _release(store, pod)
        return
    if is_finished(job):
        _expire(store, job)
        return
    status = dict(job.get("status", {}))
    status["conditions"] = [dict(c) for c in status.get("conditions") or ()]
    _follow_suspend(store, job, status)
    _count(store, job, status)
    verdict = _failure(store, job, status)
    if verdict is not None:
        _set_condition(store, status, "FailureTarget", verdict)
    elif status.get("succeeded", 0) >= job["spec"]["completions"]:
        message = "Reached expected number of succeeded pods"
        _set_condition(store, status, "SuccessCriteriaMet", _Verdict(reason="CompletionsReached", message=message))
    _adjust_pods(store, job, status)
    _finish(store, status)
    _write_status(store, job, status)


def _follow_suspend(store: Store, job: Obj, status: Obj) -> None:
    if job["spec"]["suspend"]:
        status.pop("startTime", None)
        _set_condition(store, status, "Suspended", _Verdict(reason="JobSuspended", message="Job suspended"))
    else:
        status.setdefault("startTime", store.now())
        if condition({"status": status}, "Suspended"):
            resumed = _Verdict(reason="JobResumed", message="Job resumed")
            _set_condition(store, status, "Suspended", resumed, value="False")


def _count(store: Store, job: Obj, status: Obj) -> None:
    """Count pods that ended since the last pass; the tracking finalizer says which were counted."""
    for pod in _pods(store, job):
        phase = pod.get("status", {}).get("phase")
        if not _is_tracked(pod) or phase not in ("Succeeded", "Failed"):
            continue
        action, verdict = _judge(job, pod) if phase == "Failed" else ("Count", None)
        if phase == "Succeeded":
            status["succeeded"] = status.get("succeeded", 0) + 1
            if _is_indexed(job):
                done = filter(None, [status.get("completedIndexes"), pod["metadata"]["annotations"][INDEX]])
                status["completedIndexes"] = ",".join(done)
        elif action != "Ignore":
            status["failed"] = status.get("failed", 0) + 1
        if verdict is not None:
            _set_condition(store, status, "FailureTarget", verdict)
        _release(store, pod)


def _judge(job: Obj, pod: Obj) -> tuple[str, _Verdict | None]:
    """The action of the first rule of the podFailurePolicy that matches."""
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
        matched = _matching_exit_code(rule, pod) if "onExitCodes" in rule else _matching_condition(rule, pod)
        if matched is None:
            continue
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        message = f"{matched.format(pod=name)} matching {rule['action']} rule at index {index}"
        failed = rule["action"] == "FailJob"
        return rule["action"], _Verdict(reason="PodFailurePolicy", message=message) if failed else None
    return "Count", None


def _matching_exit_code(rule: Obj, pod: Obj) -> str | None:
    wanted = rule["onExitCodes"]
    for container in pod["status"].get("containerStatuses", ()):
        code = container.get("state", {}).get("terminated", {}).get("exitCode", 0)
        if code == 0 or wanted.get("containerName") not in (None, container["name"]):
            continue
        if (code in wanted["values"]) == (wanted["operator"] == "In"):
            return f"Container {container['name']} for pod {{pod}} failed with exit code {code}"
    return None


def _matching_condition(rule: Obj, pod: Obj) -> str | None:
    actual = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
    for pattern in rule.get("onPodConditions", ()):
        if actual.get(pattern["type"]) == pattern.get("status", "True"):
            return f"Pod {{pod}} has condition {pattern['type']}"
    return None


def _failure(store: Store, job: Obj, status: Obj) -> _Verdict | None:
    """Why the Job fails; None while it does not. A verdict once given stays."""
    given = condition({"status": status}, "FailureTarget")
    if given is not None:
        return _Verdict(reason=given["reason"], message=given["message"])
    if status.get("failed", 0) > job["spec"]["backoffLimit"]:
        return _Verdict(reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
    deadline = job["spec"].get("activeDeadlineSeconds")
    if (
        deadline is not None
        and "startTime" in status
        and _age(store, status["startTime"]) >= timedelta(seconds=deadline)
    ):
        return _Verdict(reason="DeadlineExceeded", message="Job was active longer than specified deadline")
    return None


def _adjust_pods(store: Store, job: Obj, status: Obj) -> None:
    """Create what is missing, delete what may not run, and report the counts."""
    running = [pod for pod in _pods(store, job) if pod["status"]["phase"] in ("Pending", "Running")]
    ending = [pod for pod in running if pod["metadata"].get("deletionTimestamp")]
    active = [pod for pod in running if pod not in ending]
    over = any(condition({"status": status}, kind) for kind in ("FailureTarget", "SuccessCriteriaMet"))
    if over or job["spec"]["suspend"]:
        for pod in active:
            if not over:
                _release(store, pod)  # first, so that a pod which was suspended is not counted as failed
            _delete_pod(store, pod)
    else:
        occupying = active + (ending if job["spec"]["podReplacementPolicy"] == "Failed" else [])
        wanted = min(job["spec"]["parallelism"], job["spec"]["completions"] - status.get("succeeded", 0))
        for index in _free_indexes(job, status, occupying)[: wanted - len(occupying)]:
            _create_pod(store, job, index)
    remaining = [pod for pod in _pods(store, job) if pod["status"]["phase"] in ("Pending", "Running")]
    status["active"] = sum(not pod["metadata"].get("deletionTimestamp") for pod in remaining)
    status["terminating"] = len(remaining) - status["active"]
    status["ready"] = sum(condition(pod, "Ready") is not None for pod in remaining)
    status["uncountedTerminatedPods"] = {}


def _is_indexed(job: Obj) -> bool:
    return job["spec"]["completionMode"] == "Indexed"


def _free_indexes(job: Obj, status: Obj, occupying: list[Obj]) -> list[str]:
    """Which pods may be created; they have no numbers where the Job is not Indexed."""
    if not _is_indexed(job):
        return [""] * job["spec"]["parallelism"]
    taken = {pod["metadata"]["annotations"][INDEX] for pod in occupying}
    taken |= set(status.get("completedIndexes", "").split(","))
    return [str(index) for index in range(job["spec"]["completions"]) if str(index) not in taken]


def _finish(store: Store, status: Obj) -> None:
    """The terminal condition, once no pod is left running: only this one is final."""
    if status["active"] or status["terminating"]:
        return
    holder = {"status": status}
    for interim, final in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
        given = condition(holder, interim)
        if given is not None:
            _set_condition(store, status, final, _Verdict(reason=given["reason"], message=given["message"]))
            if final == "Complete":
                status["completionTime"] = store.now()
            return


def _set_condition(store: Store, status: Obj, kind: str, why: _Verdict, *, value: str = "True") -> None:
    conditions: list[Obj] = status["conditions"]
    if any(c["type"] == kind and c["status"] == value for c in conditions):
        return
    now = store.now()
    entry = {"type": kind, "status": value, "reason": why.reason, "message": why.message}
    status["conditions"] = [c for c in conditions if c["type"] != kind]
    status["conditions"].append(entry | {"lastProbeTime": now, "lastTransitionTime": now})


def _write_status(store: Store, job: Obj, status: Obj) -> None:
    if job.get("status") == status:
        return
    metadata = {key: value for key, value in job["metadata"].items() if key != "resourceVersion"}
    store.update(store.resources.find("jobs"), job | {"metadata": metadata, "status": status}, manager=_STATUS)


def _expire(store: Store, job: Obj) -> None:
    ttl = job["spec"].get("ttlSecondsAfterFinished")
    ended = next(c for kind in _FINISHED if (c := condition(job, kind)))["lastTransitionTime"]
    if ttl is not None and _age(store, ended) >= timedelta(seconds=ttl):
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        store.delete(store.resources.find("jobs"), namespace, name, propagation="Background")


def _age(store: Store, since: str) -> timedelta:
    return _parse(store.now()) - _parse(since)


def _parse(time: str) -> datetime:
    return datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _pods(store: Store, job: Obj) -> list[Obj]:
    pods = store.list_objects(store.resources.find("pods"), job["metadata"]["namespace"])
    return [pod for pod in pods if _controller(pod).get("uid") == job["metadata"]["uid"]]


def _controller(pod: Obj) -> dict[str, Any]:
    return next((r for r in pod["metadata"].get("ownerReferences") or () if r.get("controller")), {})


def _owning_job(store: Store, pod: Obj) -> Obj | None:
    reference = _controller(pod)
    job = store.find(store.resources.find("jobs"), pod["metadata"]["namespace"], reference.get("name", ""))
    return job if job is not None and job["metadata"]["uid"] == reference["uid"] else None


def _is_tracked(pod: Obj) -> bool:
    return JOB_TRACKING_FINALIZER in (pod["metadata"].get("finalizers") or ())


def _release(store: Store, pod: Obj) -> None:
    if not _is_tracked(pod):
        return
    finalizers = [name for name in pod["metadata"]["finalizers"] if name != JOB_TRACKING_FINALIZER]
    metadata = {key: value for key, value in pod["metadata"].items() if key != "resourceVersion"}
    body = pod | {"metadata": metadata | {"finalizers": finalizers}}
    store.update(store.resources.find("pods"), body, manager=_MANAGER)


def _delete_pod(store: Store, pod: Obj) -> None:
    store.delete(store.resources.find("pods"), pod["metadata"]["namespace"], pod["metadata"]["name"])


def _create_pod(store: Store, job: Obj, index: str) -> None:
    template, name = job["spec"]["template"], job["metadata"]["name"]
    numbered = {INDEX: index} if index else {}
    metadata = {
        "generateName": f"{name}-{index}-" if index else f"{name}-",
        "namespace": job["metadata"]["namespace"],
        "labels": template["metadata"]["labels"] | numbered,
        "annotations": (template["metadata"].get("annotations") or {}) | numbered,
        "finalizers": [JOB_TRACKING_FINALIZER],
        "ownerReferences": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": name,
                "uid": job["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    with contextlib.suppress(ApiError):  # a terminating namespace takes no pods; the Job goes with it
        spec = template["spec"] | ({"hostname": f"{name}-{index}"} if index else {})
        store.create(store.resources.find("pods"), {"metadata": metadata, "spec": spec}, manager=_MANAGER)
