"""What must hold at every moment, judged from the writes that the API server applied. Pure.

`Checker.see` takes one write after the other and returns what is wrong with the world after it, as sentences.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from lora_operator import naming
from lora_operator.naming import Stage

from tests import kstatus
from tests.builders import T0, stamp
from tests.faults.audit import CLUSTER, Write
from tests.faults.trainers import of_a_job

Obj = dict[str, Any]
RUNS = f"{naming.RUN_PLURAL}.{naming.GROUP}"
JOBS, PODS, CONFIG_MAPS, SERVICES = "jobs.batch", "pods", "configmaps", "services"
CLASSES = f"{naming.CLASS_PLURAL}.{naming.GROUP}"
WRITTEN_BY_OPERATORS = (RUNS, CLASSES, JOBS, CONFIG_MAPS, SERVICES, "events", "leases.coordination.k8s.io")
OF_USERS = (RUNS, CLASSES)
"""Of these, operators write the status only."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""Clocks of operators may be two minutes off, and changed meanwhile."""
PODS_OF_ONE_JOB = 10
"""So many at most follow each other where all are evicted at once: five in vain, and as many before if one of them is
seen to gain a step."""
POLL_SECONDS = 15.0
"""What was told may be as old as that."""
FORGED_IMAGE = "registry.example/tenants-own:1"
"""The image of a class that no platform team offers."""
BOOKKEEPING = ("resourceVersion", "managedFields")


@dataclass
class Checker:
    """The memory that judging needs: what is there now."""

    _there: dict[str, dict[str, Obj]] = field(default_factory=dict)
    """Objects by resource and uid."""
    _began: dict[str, float] = field(default_factory=dict)
    """When the newest train pod of a run began."""
    _told: dict[str, float] = field(default_factory=dict)
    """When progress of a run was written last."""

    def see(self, write: Write) -> list[str]:
        """What is wrong since this write."""
        if write.resource == PODS and not of_a_job(write.obj):
            return _authority(write)
        known = self._there.setdefault(write.resource, {})
        uid = write.obj["metadata"]["uid"]
        if write.new is None:
            known.pop(uid, None)
        else:
            known[uid] = write.new
        found = _authority(write)
        match write.resource:
            case _ if write.new is None:
                pass
            case resource if resource == RUNS:
                found += self._steps(write) + run_breaches(write.old, write.new) + _ahead_of_time(write)
            case resource if resource in (JOBS, CONFIG_MAPS, SERVICES):
                found += self._child(write, write.new) if write.old is None else []
                found += self._trainings(write.new)
            case resource if resource == PODS:
                found += self._pod(write, write.new) + self._trainings(write.new)
        return found

    def left_over(self) -> list[str]:
        """In a world at rest: children without their owner, and work that goes on for runs that are over."""
        found = []
        for resource in (JOBS, CONFIG_MAPS, SERVICES, PODS):
            for obj in self._of(resource):
                owners = {entry["uid"] for entry in obj["metadata"].get("ownerReferences", ())}
                if not any(uid in known for known in self._there.values() for uid in owners):
                    found.append(f"{resource} {obj['metadata']['name']} is an orphan")
        for job in self._of(JOBS):
            run = self._there.get(RUNS, {}).get(_run_uid(job))
            if run is not None and terminal(run) and not self._over(job):
                found.append(f"Job {job['metadata']['name']} works for a run that is over")
        return found

    def _of(self, resource: str) -> list[Obj]:
        return list(self._there.get(resource, {}).values())

    def _child(self, write: Write, child: Obj) -> list[str]:
        """A Job, ConfigMap or Service was created."""
        metadata = child["metadata"]
        uid = metadata.get("labels", {}).get(naming.RUN_UID_LABEL)
        owners = [entry["uid"] for entry in metadata.get("ownerReferences", ()) if entry.get("controller")]
        name = f"{child['kind']} {metadata['name']}"
        if write.actor != CLUSTER and owners != [uid]:
            return [f"{name} was created without its run as owner"]
        run = self._there.get(RUNS, {}).get(uid or "")
        if run is None or child["kind"] != "Job":
            return []
        found = [f"{name} was created after the run was over"] if terminal(run) else []
        if write.actor != CLUSTER:
            found += self._not_allowed(run, child, name=name)
        stage, number = _attempt(child)
        if any((entry["stage"], entry["number"]) == (stage, number) for entry in _attempts(run.get("status", {}))):
            found.append(f"{name} was created again although its attempt is on record")
        return found

    def _not_allowed(self, run: Obj, job: Obj, *, name: str) -> list[str]:
        """An operator creates a Job only from a class that is offered, after the record of it, and only while no other
        run that has begun and is not over has the same output."""
        found = [] if run.get("status", {}).get("resolvedDigest") else [f"{name} was created before the record"]
        if FORGED_IMAGE in _images(job):
            found.append(f"{name} has the image of a forged class")
        output = run["spec"]["output"]
        rivals = [each for each in self._of(RUNS) if each["spec"]["output"] == output and not terminal(each)]
        others = (each for each in rivals if each["metadata"]["uid"] != run["metadata"]["uid"])
        begun = [each["metadata"]["name"] for each in others if self._has_begun(each)]
        return found + [f"{name} was created while {other} has the same output" for other in begun]

    def _has_begun(self, run: Obj) -> bool:
        uid = run["metadata"]["uid"]
        return bool(_attempts(run.get("status", {}))) or any(_run_uid(job) == uid for job in self._of(JOBS))

    def _pod(self, write: Write, pod: Obj) -> list[str]:
        run = self._there.get(RUNS, {}).get(_run_uid(pod))
        begins = _is_train(pod) and _running(pod) and not (write.old and _running(write.old))
        if begins:
            self._began[_run_uid(pod)] = write.second
        if begins and run is not None and terminal(run):
            return [f"pod {pod['metadata']['name']} began to train although the run was over"]
        return []

    def _trainings(self, child: Obj) -> list[str]:
        """At most one train Job of the child's run that is not over, and one train pod that runs for each node."""
        uid, found = _run_uid(child), []
        if not _is_train(child):
            return []
        jobs = [job for job in self._of(JOBS) if _run_uid(job) == uid and _is_train(job) and not self._over(job)]
        pods = [pod for pod in self._of(PODS) if _run_uid(pod) == uid and _is_train(pod) and _running(pod)]
        for what, several in (("train Jobs live", jobs), ("train pods run", _beyond_one_set(pods))):
            if len(several) > 1:
                names = ", ".join(sorted(each["metadata"]["name"] for each in several))
                found.append(f"{len(several)} {what} at once: {names}")
        return found

    def _over(self, job: Obj) -> bool:
        """Whether no pod of the Job will work any more: it is finished, or did what it should."""
        conditions = job.get("status", {}).get("conditions", ())
        if any(entry["type"] in ("Complete", "Failed") and entry["status"] == "True" for entry in conditions):
            return True
        uid = job["metadata"]["uid"]
        pods = (pod for pod in self._of(PODS) if uid in _owners(pod) and _index(pod) == "0")
        return any(pod["status"].get("phase") == "Succeeded" for pod in pods)

    def _steps(self, write: Write) -> list[str]:
        """Steps only grow, unless another pod of the run began at an earlier checkpoint meanwhile."""
        before, after = _progress(write.old), _progress(write.new)
        if after is None or before == after:
            return []
        uid = write.obj["metadata"]["uid"]
        told, self._told[uid] = self._told.get(uid, 0.0), write.second
        if before is None or after["step"] >= before["step"] or self._began.get(uid, 0.0) > told - POLL_SECONDS:
            return []
        return [f"progress fell from step {before['step']} to {after['step']} in one pod"]


def _ahead_of_time(write: Write) -> list[str]:
    """Attempts that began or ended later than they were written: somebody believed the clock of a node."""
    latest = stamp(T0 + timedelta(seconds=write.second) + CLOCK_TOLERANCE)
    return [
        f"{entry['stage']} attempt {entry['number']} has {name} {entry[name]}, which is in the future"
        for entry in _attempts(write.obj.get("status", {}))
        for name in ("startTime", "endTime")
        if entry.get(name, "") > latest
    ]


def run_breaches(old: Obj | None, new: Obj) -> list[str]:
    """What is wrong with a new version of a run, given the one before."""
    status, before = new.get("status", {}), (old or {}).get("status", {})
    if not status:
        return ["status was taken away"] if before else []
    found = kstatus.breaches(status, generation=new["metadata"]["generation"])
    found += [f"{entry['stage']} attempt {entry['number']} ended before it began" for entry in _inverted(status)]
    if status.get("usage", {}).get("acceleratorSeconds", 0) < 0:
        found.append("acceleratorSeconds is negative")
    return found + (_taken_back(old, before, status) if before and before != status else [])


def _taken_back(old: Obj | None, before: Obj, after: Obj) -> list[str]:
    found = kstatus.regressions(before, after)
    for field_name in ("observedGeneration", "resumptions"):
        if after.get(field_name, 0) < before.get(field_name, 0):
            found.append(f"{field_name} fell from {before[field_name]} to {after.get(field_name, 0)}")
    if len(after.get("adjustments", ())) < len(before.get("adjustments", ())):
        found.append("adjustments were taken back")
    if before.get("attempts") and before.get("resolvedDigest", "") != after.get("resolvedDigest", ""):
        found.append("resolvedDigest changed after the run had begun")
    for stage in Stage:
        was, now = ([a["number"] for a in _attempts(status) if a["stage"] == stage] for status in (before, after))
        if now != sorted(set(now)) or (was and (not now or now[-1] < was[-1])):
            found.append(f"attempt numbers of {stage} went from {was} to {now}")
    if old is not None and terminal(old):
        found += _changed_after_end(before, after)
    return found


def _changed_after_end(before: Obj, after: Obj) -> list[str]:
    """Only generations may still change: `kubectl wait` wants them up to date."""
    return [
        f"{name} changed after the run was over"
        for name in sorted(set(before) | set(after))
        if name != "observedGeneration" and _timeless(before.get(name)) != _timeless(after.get(name))
    ]


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(entry) for entry in value]
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if key != "observedGeneration"}
    return value


def _authority(write: Write) -> list[str]:
    """Operators write children, Events, their Lease and status; nothing of the user's."""
    if write.actor == CLUSTER:
        return []
    if write.resource not in WRITTEN_BY_OPERATORS:
        return [f"{write.actor} wrote {write.resource} {write.obj['metadata']['name']}"]
    if write.resource not in OF_USERS:
        return []
    if write.old is None or write.new is None or _users(write.old) != _users(write.new):
        return [f"{write.actor} wrote more than the status of {write.resource} {write.obj['metadata']['name']}"]
    return []


def _users(obj: Obj) -> Obj:
    metadata = {key: value for key, value in obj["metadata"].items() if key not in BOOKKEEPING}
    return {key: value for key, value in obj.items() if key != "status"} | {"metadata": metadata}


def evicted_in_vain(writes: list[Write], *, times: int) -> list[str]:
    """What is wrong with the history of a run whose first pods were all evicted: it must be counted and told, and not
    go on in one Job for ever."""
    pods = {write.obj["metadata"]["uid"]: write.obj for write in writes if write.resource == PODS}
    runs = [write.obj for write in writes if write.resource == RUNS]
    busiest = max(Counter(owner for pod in pods.values() for owner in _owners(pod)).values())
    found = [f"{busiest} pods of one Job followed each other"] if busiest > PODS_OF_ONE_JOB else []
    count = runs[-1].get("status", {}).get("disruptions", {}).get("count", 0)
    found += [f"{times} evictions count as {count}"] if count != times else []
    told = {entry["reason"] for run in runs for entry in run.get("status", {}).get("conditions", ())}
    return found + ([] if "RepeatedlyDisrupted" in told else ["nobody was told"])


def terminal(run: Obj) -> bool:
    """Whether Finished is True."""
    conditions = run.get("status", {}).get("conditions", ())
    return any(entry["type"] == "Finished" and entry["status"] == "True" for entry in conditions)


def _attempts(status: Obj) -> list[Obj]:
    return status.get("attempts", [])


def _inverted(status: Obj) -> list[Obj]:
    timed = (entry for entry in _attempts(status) if entry.get("startTime") and entry.get("endTime"))
    return [entry for entry in timed if entry["endTime"] < entry["startTime"]]


def _attempt(job: Obj) -> tuple[str, int]:
    labels = job["metadata"]["labels"]
    return labels[naming.STAGE_LABEL], int(labels[naming.ATTEMPT_LABEL])


def _images(job: Obj) -> set[str]:
    return {container["image"] for container in job["spec"]["template"]["spec"]["containers"]}


def _owners(child: Obj) -> set[str]:
    return {owner["uid"] for owner in child["metadata"].get("ownerReferences", ())}


def _index(pod: Obj) -> str:
    return pod["metadata"].get("annotations", {}).get(naming.INDEX_ANNOTATION, "0")


def _beyond_one_set(pods: list[Obj]) -> list[Obj]:
    """The pods where they are more than one Job's, each with a number of its own."""
    owners = {owner for pod in pods for owner in _owners(pod)}
    return pods if len(owners) > 1 or len({_index(pod) for pod in pods}) < len(pods) else []


def _run_uid(child: Obj) -> str:
    return child["metadata"].get("labels", {}).get(naming.RUN_UID_LABEL, "")


def _is_train(child: Obj) -> bool:
    return child["metadata"].get("labels", {}).get(naming.STAGE_LABEL) == Stage.TRAIN


def _running(pod: Obj) -> bool:
    return pod.get("status", {}).get("phase") == "Running"


def _progress(run: Obj | None) -> Obj | None:
    return (run or {}).get("status", {}).get("progress")
