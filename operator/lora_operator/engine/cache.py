"""The objects that the watches have reported, and which runs each change concerns."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from lora_trainer.contract.spec.output import output_folder

from lora_operator.api.conditions import ConditionType
from lora_operator.kube.store import Key, Store
from lora_operator.naming import RUN_LABEL
from lora_operator.planning.observed import ClassView, JobView, PodView, class_view, job_view, pod_view

Body = dict[str, Any]
V = TypeVar("V", JobView, PodView)

log = logging.getLogger(__name__)


def key_of(body: Body) -> Key:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A LoraFineTune as it was read, with the fields that reconciles of other runs need.

    The body is kept as text: parsed, ten thousand of them would take hundreds of MiB, and parsing one takes
    microseconds.
    """

    key: Key
    uid: str
    created: datetime
    output: str
    class_name: str | None
    """The class that it was resolved against."""
    asked_class: str | None
    """The class that its spec names."""
    deleting: bool
    ready_reason: str | None
    stalled: bool
    """Whether it needs a person."""
    begun: bool
    """Whether its status has an attempt."""
    terminal: bool
    text: str

    @property
    def body(self) -> Body:
        """The object."""
        return json.loads(self.text)


def run_record(body: Body) -> RunRecord:
    """The record of a LoraFineTune, without metadata.managedFields."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    status = body.get("status", {})
    conditions = status.get("conditions", ())
    true = {condition["type"] for condition in conditions if condition["status"] == "True"}
    return RunRecord(
        key=key_of(body),
        uid=metadata["uid"],
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        output=output_folder(body["spec"]["output"]["uri"]),
        class_name=status.get("className"),
        asked_class=body["spec"].get("className"),
        deleting="deletionTimestamp" in metadata,
        stalled=ConditionType.STALLED in true,
        ready_reason=next((entry["reason"] for entry in conditions if entry["type"] == ConditionType.READY), None),
        begun=bool(status.get("attempts")),
        terminal=ConditionType.FINISHED in true,
        text=json.dumps(body | {"metadata": metadata}),
    )


def _version(body: Body) -> int:
    """The resourceVersion as a number. Those of one object are ordered (KEP-5504: comparable as integers)."""
    return int(body["metadata"]["resourceVersion"])


@dataclass(frozen=True)
class Cache:
    """The newest known version of all objects that plans are made from."""

    runs: Store[RunRecord] = field(default_factory=lambda: Store(lambda record: record.output))
    classes: Store[ClassView] = field(default_factory=lambda: Store(lambda view: view.is_default))
    jobs: Store[JobView] = field(default_factory=lambda: Store(lambda view: view.run_uid))
    foreign: set[tuple[str, Key]] = field(default_factory=set)
    """Kind and key of objects that are labelled like the operator's and are not."""
    pods: Store[PodView] = field(default_factory=lambda: Store(lambda view: view.run_uid))

    def put_run(self, body: Body) -> frozenset[Key]:
        """Store a run. Returns it and the runs that wait for its output, to be reconciled."""
        record = run_record(body)
        self.runs.put(record.key, _version(body), record)
        return self.runs.keys_of(record.output) | {record.key}

    def drop_run(self, body: Body) -> frozenset[Key]:
        """Remove a run that is gone. Returns the runs that wait for its output, to be reconciled."""
        return self.drop_run_at(key_of(body), version=_version(body))

    def drop_run_at(self, key: Key, *, version: int | None = None) -> frozenset[Key]:
        """Remove a run of which only the key is known."""
        record = self.runs.drop(key, version=version)
        return self.runs.keys_of(record.output) if record is not None else frozenset()

    def put_class(self, body: Body) -> frozenset[Key]:
        """Store a class. Returns all runs, because any may have waited for it; none where only its status changed."""
        key, view = key_of(body), class_view(body)
        before = self.classes.get(key)
        self.classes.put(key, _version(body), view)
        return self._all_runs() if before is None or before.offer != view.offer else frozenset()

    def drop_class(self, body: Body) -> frozenset[Key]:
        """Remove a class that is gone. Returns all runs."""
        self.classes.drop(key_of(body), version=_version(body))
        return self._all_runs()

    def put_job(self, body: Body) -> frozenset[Key]:
        """A Job was seen: its run is to be reconciled."""
        return self._put_child("Job", self.jobs, job_view, body)

    def drop_job(self, body: Body) -> frozenset[Key]:
        """A Job is gone: its run is to be reconciled."""
        return self._drop_child("Job", self.jobs, body)

    def put_pod(self, body: Body) -> frozenset[Key]:
        """A pod was seen: its run is to be reconciled."""
        return self._put_child("Pod", self.pods, pod_view, body)

    def drop_pod(self, body: Body) -> frozenset[Key]:
        """A pod is gone: its run is to be reconciled."""
        return self._drop_child("Pod", self.pods, body)

    def _put_child(self, kind: str, store: Store[V], view: Callable[[Body], V], body: Body) -> frozenset[Key]:
        """Anyone may label an object like ours, with any content. It is ignored, so that it harms nobody."""
        key = key_of(body)
        try:
            seen, run = view(body), run_of(body)
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            if (kind, key) not in self.foreign:
                namespace, name = key
                told = {"kind": kind, "namespace": namespace, "object": name, "problem": repr(problem)}
                log.warning("ignored an object with the operator's labels", extra=told)
            self.foreign.add((kind, key))
            store.drop(key, version=_version(body))
            return frozenset()
        self.foreign.discard((kind, key))
        store.put(key, _version(body), seen)
        return run

    def _drop_child(self, kind: str, store: Store[V], body: Body) -> frozenset[Key]:
        key = key_of(body)
        self.foreign.discard((kind, key))
        return run_of(body) if store.drop(key, version=_version(body)) is not None else frozenset()

    def keep_foreign(self, kind: str, there: Set[Key]) -> None:
        """Forget the ignored objects of a kind that a full LIST does not show."""
        self.foreign.difference_update({entry for entry in self.foreign if entry[0] == kind and entry[1] not in there})

    def keys_of(self, uids: Set[str]) -> frozenset[Key]:
        """The keys of the runs that have these uids."""
        return frozenset(record.key for record in self.runs.values() if record.uid in uids) if uids else frozenset()

    def runs_by_reason(self) -> Counter[tuple[str, str | None]]:
        """The number of runs by namespace and reason of Ready."""
        return Counter((record.key[0], record.ready_reason) for record in self.runs.values())

    def children_of(self, uid: str) -> tuple[JobView, ...]:
        """The Jobs of a run with their pods."""
        pods = self.pods.of(uid)
        return tuple(job.with_pods(pods) for job in self.jobs.of(uid))

    def orphans_of(self, uid: str) -> tuple[PodView, ...]:
        """The pods of a run that may still run although their Job is gone."""
        jobs = {job.uid for job in self.jobs.of(uid)}
        return tuple(pod for pod in self.pods.of(uid) if pod.job_uid not in jobs and pod.active)

    def _all_runs(self) -> frozenset[Key]:
        return frozenset(record.key for record in self.runs.values())


def run_of(body: Body) -> frozenset[Key]:
    """The run that a child belongs to."""
    metadata = body["metadata"]
    return frozenset({(metadata["namespace"], metadata["labels"][RUN_LABEL])})
