"""Reads what a plan is made from: from the cache at first, from the API server for decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lora_trainer.contract.spec.output import output_folder
from pydantic import ValidationError

from lora_operator.api.lorafinetune import LoraFineTune, StoredRun, parse_run, parse_stored
from lora_operator.engine.cache import Cache, key_of
from lora_operator.engine.lines import Lines
from lora_operator.engine.refusals import Refusals
from lora_operator.kube.errors import NotFound
from lora_operator.kube.gateway import CONFIG_MAPS, JOBS, NAMESPACES, PODS, RUNS, Gateway
from lora_operator.kube.store import Key
from lora_operator.naming import RunId, config_map_name, run_selector
from lora_operator.planning.gates import Block, class_of
from lora_operator.planning.observed import JobView, Observed, PolledProgress, QueuePlace, TakenName
from lora_operator.planning.pod_problems import MOUNT_PATIENCE
from lora_operator.planning.reading import first_error
from lora_operator.workloads.resolved import ResolvedRun, digest_of, read_config_map

Body = dict[str, Any]
Clock = Callable[[], datetime]


class Unreadable(Exception):
    """The operator cannot read the run's spec or ConfigMap. The text is a sentence without its full stop."""

    def __init__(self, run: StoredRun, problem: str) -> None:
        super().__init__(problem)
        self.run = run


@dataclass
class Observer:
    """Reads one run and its children."""

    gateway: Gateway
    cache: Cache
    clock: Clock
    paused: bool = False
    """Whether no attempt is to start."""
    polled: dict[RunId, PolledProgress] = field(default_factory=dict)
    """Newest progress by run."""
    places: dict[str, QueuePlace] = field(default_factory=dict)
    """Places in queues by uid of the Job."""
    _refusals: Refusals = field(init=False)
    _lines: Lines = field(init=False)

    def __post_init__(self) -> None:
        self._lines = Lines(cache=self.cache)
        self._refusals = Refusals(gateway=self.gateway)

    async def look(self, key: Key) -> Observed | None:
        """The run as the cache has it, or None when it is gone. Raises Unreadable, and pydantic.ValidationError for an
        invalid status."""
        record = self.cache.runs.get(key)
        if record is None:
            return None
        run = _read(record.body)
        return await self._observed(run, self.cache.children_of(run.id))

    async def look_live(self, key: Key) -> Observed | None:
        """The run and its children as the API server has them. Updates the cache with them."""
        namespace, name = key
        try:
            body = await self.gateway.get(RUNS, namespace, name)
        except NotFound:
            return None
        self.cache.put_run(body)
        run = _read(body)
        if self._is_new(run):
            return await self._observed(run, (), live=True)
        selector = run_selector(run.uid)
        for resource, store, put in (
            (JOBS, self.cache.jobs, self.cache.put_job),
            (PODS, self.cache.pods, self.cache.put_pod),
        ):
            # An object that a watch adds during the list request is not in the list, but is not gone either.
            known = store.versions(group=run.id)
            found = [item async for item in self.gateway.list(resource, namespace, selector=selector)]
            for item in found:
                put(item)
            for gone in known.keys() - {key_of(item) for item in found}:
                store.drop(gone, version=known[gone])
        return await self._observed(run, self.cache.children_of(run.id), live=True)

    def _is_new(self, run: LoraFineTune) -> bool:
        """Whether no child of the run is known or recorded. A child that exists nevertheless has the name of the one
        that is created next, and is found then. Looking for it here would cost three requests."""
        return not (run.status.attempts or self.cache.jobs.keys_of(run.id) or self.cache.pods.keys_of(run.id))

    def found_resolved(self, run: LoraFineTune, config_map: Body) -> ResolvedRun:
        """Remember what the run's ConfigMap says. Raises Unreadable."""
        resolved = _read_resolved(run, config_map)
        self.cache.remember_resolved((run.namespace, run.name), run.uid, resolved)
        return resolved

    async def _observed(self, run: LoraFineTune, jobs: tuple[JobView, ...], *, live: bool = False) -> Observed:
        unfinished = not (run.status.terminal or run.deleting)
        # Whatever exists before the record is not the operator's. Of a run that only begins, the cache knows no Job.
        there = run.status.on_record and (live or jobs or run.status.attempts or run.uid in self.cache.resolved)
        found = await self._resolved_of(run) if there and unfinished else None
        resolved = found if isinstance(found, ResolvedRun) else None
        return Observed(
            run=run,
            classes=self.cache.classes.values(),
            jobs=tuple([await self._explained(job, run.namespace) for job in jobs]),
            orphans=self.cache.orphans_of(run.id),
            resolved=resolved,
            namespace_labels=await self._namespace_labels(run) if resolved is None and unfinished else {},
            lacks_config_map=await self._lacks_config_map(run, jobs),
            polled=self.polled.get(run.id),
            taken=found if isinstance(found, TakenName) else None,
            output_holder=self.cache.output_holder(
                run.uid, created=run.created, output=output_folder(run.spec.output.uri)
            ),
            line=self._lines.line(run) if unfinished else None,
            paused=self.paused,
            cleanups=self.cache.unfinished_cleanups(run.namespace) if run.status.terminal else 0,
        )

    async def _explained(self, job: JobView, namespace: str) -> JobView:
        """The Job with the reason why it has no pod, where that is known."""
        if job.suspended:
            return replace(job, place=self.places.get(job.uid))
        return replace(job, pod_refusal=await self._refusals.of(job, namespace, self.clock()))

    async def _resolved_of(self, run: LoraFineTune) -> ResolvedRun | TakenName | None:
        """What the run's ConfigMap says, if it is the one that status records."""
        if run.uid in self.cache.resolved:
            return self.cache.resolved[run.uid]
        name = config_map_name(run.name, run.uid)
        try:
            body = await self.gateway.get(CONFIG_MAPS, run.namespace, name)
        except NotFound:
            return None
        if not owned_by(body, run.uid):
            return TakenName(child=f"ConfigMap {name}")
        # An earlier version of the operator recorded attempts only. Of such a run, the ConfigMap is taken as it is.
        if run.status.resolved_digest not in (None, digest_of(body.get("data", {}))):
            return TakenName(child=f"ConfigMap {name}", forged=True)
        return self.found_resolved(run, body)

    async def _namespace_labels(self, run: LoraFineTune) -> Mapping[str, str]:
        """Labels of the run's namespace, where the class that it would get asks for some."""
        chosen = class_of(run, self.cache.classes.values())
        if isinstance(chosen, Block) or chosen.spec is None or chosen.spec.namespace_selector is None:
            return {}
        namespace = await self.gateway.get(NAMESPACES, None, run.namespace)
        return namespace["metadata"].get("labels", {})

    async def _lacks_config_map(self, run: LoraFineTune, jobs: tuple[JobView, ...]) -> bool:
        """Whether a pod waits for the run's ConfigMap because it is gone. The kubelet reports this only in an Event."""
        pods = [pod for job in jobs if not job.over for pod in job.pods]
        if not any(pod.mounting and self.clock() >= pod.created + MOUNT_PATIENCE for pod in pods):
            return False
        try:
            await self.gateway.get(CONFIG_MAPS, run.namespace, config_map_name(run.name, run.uid))
        except NotFound:
            return True
        return False


def _read(body: Body) -> LoraFineTune:
    try:
        return parse_run(body)
    except ValidationError as problem:
        raise Unreadable(parse_stored(body), f"The operator cannot read {first_error(problem)}") from None


def _read_resolved(run: LoraFineTune, body: Body) -> ResolvedRun:
    name = config_map_name(run.name, run.uid)
    try:
        return read_config_map(body)
    except ValidationError as problem:
        raise Unreadable(run, f"The operator cannot read {first_error(problem, root=f'ConfigMap {name}')}") from None
    except KeyError as problem:
        raise Unreadable(run, f"The operator cannot read ConfigMap {name}: it has no key {problem}") from None


def owned_by(body: Body, uid: str) -> bool:
    """Whether the object's controller is the run with this uid."""
    owners = body["metadata"].get("ownerReferences", ())
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)
