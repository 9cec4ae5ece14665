"""The objects that the watches have reported, and which runs each change concerns."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, auto
from typing import Any, TypeVar

from lora_trainer.contract.spec.output import output_folder

from lora_operator.api.conditions import ConditionType
from lora_operator.api.reasons import Reason
from lora_operator.kube.store import Key, Store
from lora_operator.naming import RUN_LABEL, RunId, Stage
from lora_operator.planning.observed import ClassView, JobView, PodView
from lora_operator.planning.reading import class_view, job_view, pod_view
from lora_operator.workloads.resolved import ResolvedRun

Body = dict[str, Any]
V = TypeVar("V", JobView, PodView)

log = logging.getLogger(__name__)


def key_of(body: Body) -> Key:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Hold(IntEnum):
    """How firmly a run holds its output against others."""

    NONE = auto()
    """It is finished, or has not begun and cannot start as it is."""
    IF_OLDER = auto()
    """It has not begun, but could start. Older runs come first."""
    FIRM = auto()
    """It has begun and is not finished."""


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
    hold: Hold
    """Its hold on the output, by its spec and status alone."""
    on_record: bool
    """Whether an operator has decided to start it."""
    terminal: bool
    text: str

    @property
    def id(self) -> RunId:
        """Its namespace and uid."""
        return RunId(self.key[0], self.uid)

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
    begun, terminal = bool(status.get("attempts")), ConditionType.FINISHED in true
    # What a person must act on first cannot start, and neither can a run that is being deleted.
    cannot_start = body["spec"].get("suspend") or ConditionType.STALLED in true or "deletionTimestamp" in metadata
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
        hold=Hold.NONE if terminal else Hold.FIRM if begun else Hold.NONE if cannot_start else Hold.IF_OLDER,
        on_record=begun or "resolvedDigest" in status,
        terminal=terminal,
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
    jobs: Store[JobView] = field(default_factory=lambda: Store(lambda view: view.run))
    foreign: set[tuple[str, Key]] = field(default_factory=set)
    """Kind and key of objects that are labelled like the operator's and are not."""
    cleanups: set[Key] = field(default_factory=set)
    """Keys of cleanup Jobs, some of which may be over or gone."""
    pods: Store[PodView] = field(default_factory=lambda: Store(lambda view: view.run))
    resolved: dict[str, ResolvedRun] = field(default_factory=dict)
    """What unfinished runs were resolved to, by their uid, as read from their ConfigMaps."""
    starting: set[str] = field(default_factory=set)
    """The uids of runs whose next Job is being created."""

    wake: Callable[[frozenset[Key]], None] = lambda _: None
    """Called with the runs that wait for an output when a run lets go of it. A watch or a worker
    stores that version first, and the others see no change any more."""

    def put_run(self, body: Body) -> frozenset[Key]:
        """Store a run: it is to be reconciled."""
        record = run_record(body)
        before = self.runs.get(record.key)
        self.runs.put(record.key, _version(body), record)
        if self.runs.get(record.key) is not record:
            return frozenset({record.key})  # a newer version is known
        if before is not None and before.uid != record.uid:
            self._forget(before)
        elif before is not None and before.hold > record.hold:
            self._wake_those_that_wait_for(record.output)
        if record.terminal:
            self.resolved.pop(record.uid, None)
        return frozenset({record.key})

    def drop_run(self, body: Body) -> frozenset[Key]:
        """Remove a run that is gone: nothing is left to reconcile."""
        self.drop_run_at(key_of(body), version=_version(body))
        return frozenset()

    def drop_run_at(self, key: Key, *, version: int | None = None) -> None:
        """Remove a run of which only the key is known."""
        record = self.runs.drop(key, version=version)
        if record is not None:
            self._forget(record)

    def remember_resolved(self, key: Key, uid: str, resolved: ResolvedRun) -> None:
        """Keep what a run was resolved to, while the run is there and unfinished."""
        record = self.runs.get(key)
        if record is not None and record.uid == uid and not record.terminal:
            self.resolved[uid] = resolved

    def output_holder(self, uid: str, *, created: datetime, output: str) -> Key | None:
        """Another run that holds this output against a run that has not begun. Age alone is not enough: creation times
        are whole seconds, so a run could seem to be as old as one that has already begun."""
        others = (record for record in self.runs.of(output) if record.uid != uid)
        holds = ((record, self._hold(record)) for record in others)
        first = (
            record.key
            for record, hold in holds
            if hold is Hold.FIRM or (hold is Hold.IF_OLDER and (record.created, record.uid) < (created, uid))
        )
        return next(first, None)

    def _hold(self, record: RunRecord) -> Hold:
        """The hold of a run, which begins with its first Job and not only when status shows it."""
        begun = record.uid in self.starting or (record.on_record and bool(self.jobs.keys_of(record.id)))
        return Hold.FIRM if begun and not record.terminal else record.hold

    def _forget(self, record: RunRecord) -> None:
        """Forget a run that is gone."""
        self.resolved.pop(record.uid, None)
        self.starting.discard(record.uid)
        self._wake_those_that_wait_for(record.output)

    def _wake_those_that_wait_for(self, output: str) -> None:
        waiting = (record for record in self.runs.of(output) if record.ready_reason == Reason.OUTPUT_IN_USE)
        self.wake(frozenset(record.key for record in waiting if not record.terminal))

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
        runs = self._put_child("Job", self.jobs, job_view, body)
        job = self.jobs.get(key_of(body))
        if job is not None and job.stage is Stage.CLEANUP:
            self.cleanups.add(key_of(body))
        return runs

    def unfinished_cleanups(self, namespace: str) -> int:
        """The number of cleanup Jobs in a namespace that are not over."""
        jobs = {key: self.jobs.get(key) for key in self.cleanups}
        self.cleanups.intersection_update(key for key, job in jobs.items() if job is not None and not job.over)
        return sum(key[0] == namespace for key in self.cleanups)

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

    def keys_of(self, runs: Set[RunId]) -> frozenset[Key]:
        """The keys of these runs."""
        return frozenset(record.key for record in self.runs.values() if record.id in runs) if runs else frozenset()

    def runs_by_reason(self) -> Counter[tuple[str, str | None]]:
        """The number of runs by namespace and reason of Ready."""
        return Counter((record.key[0], record.ready_reason) for record in self.runs.values())

    def children_of(self, run: RunId) -> tuple[JobView, ...]:
        """The Jobs of a run with their pods."""
        pods = self.pods.of(run)
        return tuple(job.with_pods(pods) for job in self.jobs.of(run))

    def orphans_of(self, run: RunId) -> tuple[PodView, ...]:
        """The pods of a run that may still run although their Job is gone."""
        jobs = {job.uid for job in self.jobs.of(run)}
        return tuple(pod for pod in self.pods.of(run) if pod.job_uid not in jobs and pod.active)

    def _all_runs(self) -> frozenset[Key]:
        return frozenset(record.key for record in self.runs.values())


def run_of(body: Body) -> frozenset[Key]:
    """The run that a child belongs to."""
    metadata = body["metadata"]
    return frozenset({(metadata["namespace"], metadata["labels"][RUN_LABEL])})
