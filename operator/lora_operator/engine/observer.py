"""Reads what a plan is made from: from the cache at first, from the API server for decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lora_trainer.contract.spec.output import output_folder
from pydantic import ValidationError

from lora_operator.api.lorafinetune import LoraFineTune, StoredRun, parse_run, parse_stored
from lora_operator.engine.cache import Cache, RunRecord, key_of
from lora_operator.engine.lines import Lines
from lora_operator.engine.refusals import Refusals
from lora_operator.kube.errors import NotFound
from lora_operator.kube.gateway import CONFIG_MAPS, JOBS, NAMESPACES, PODS, RUNS, Gateway
from lora_operator.kube.store import Key
from lora_operator.naming import config_map_name, run_selector
from lora_operator.planning.gates import Block, class_of
from lora_operator.planning.observed import JobView, Observed, PolledProgress, QueuePlace, first_error
from lora_operator.planning.pod_problems import MOUNT_PATIENCE
from lora_operator.workloads.resolved import ResolvedRun, read_config_map

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
    polled: dict[str, PolledProgress] = field(default_factory=dict)
    """Newest progress by uid of the run."""
    places: dict[str, QueuePlace] = field(default_factory=dict)
    """Places in queues by uid of the Job."""
    _resolved: dict[str, ResolvedRun] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    """The uids of runs whose next Job is being created, so that no other run takes their place meanwhile."""
    _refusals: Refusals = field(init=False)
    _lines: Lines = field(init=False)

    def __post_init__(self) -> None:
        self._lines = Lines(cache=self.cache, starting=self.starting)
        self._refusals = Refusals(gateway=self.gateway)

    async def look(self, key: Key) -> Observed | None:
        """The run as the cache has it, or None when it is gone. Raises Unreadable, and pydantic.ValidationError for an
        invalid status."""
        record = self.cache.runs.get(key)
        if record is None:
            return None
        run = _read(record.body)
        return await self._observed(run, self.cache.children_of(run.uid))

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
            return await self._observed(run, ())
        selector = run_selector(run.uid)
        for resource, store, put in (
            (JOBS, self.cache.jobs, self.cache.put_job),
            (PODS, self.cache.pods, self.cache.put_pod),
        ):
            # An object that a watch adds during the list request is not in the list, but is not gone either.
            known = store.versions(group=run.uid)
            found = [item async for item in self.gateway.list(resource, namespace, selector=selector)]
            for item in found:
                put(item)
            for gone in known.keys() - {key_of(item) for item in found}:
                store.drop(gone, version=known[gone])
        return await self._observed(run, self.cache.children_of(run.uid), live=True)

    def _is_new(self, run: LoraFineTune) -> bool:
        """Whether no child of the run is known or recorded. A child that exists nevertheless has the name of the one
        that is created next, and is found then. Looking for it here would cost three requests."""
        return not (run.status.attempts or self.cache.jobs.keys_of(run.uid) or self.cache.pods.keys_of(run.uid))

    def forget(self, uid: str) -> None:
        """Drop what is remembered about a run that has ended."""
        self._resolved.pop(uid, None)
        self.starting.discard(uid)
        self.polled.pop(uid, None)

    def found_resolved(self, run: LoraFineTune, config_map: Body) -> ResolvedRun:
        """Remember what the run's ConfigMap says. Raises Unreadable."""
        self._resolved[run.uid] = _read_resolved(run, config_map)
        return self._resolved[run.uid]

    async def _observed(self, run: LoraFineTune, jobs: tuple[JobView, ...], *, live: bool = False) -> Observed:
        started = bool(jobs or run.status.attempts)
        unfinished = not (run.status.terminal or run.deleting)
        wanted = unfinished and (started or live or run.uid in self._resolved)
        resolved = await self._resolved_of(run) if wanted else None
        return Observed(
            run=run,
            classes=self.cache.classes.values(),
            jobs=tuple([await self._explained(job, run.namespace) for job in jobs]),
            orphans=self.cache.orphans_of(run.uid),
            resolved=resolved,
            namespace_labels=await self._namespace_labels(run) if resolved is None and unfinished else {},
            lacks_config_map=await self._lacks_config_map(run, jobs),
            polled=self.polled.get(run.uid),
            output_holder=self._output_holder(run),
            line=self._lines.line(run) if unfinished else None,
            paused=self.paused,
        )

    async def _explained(self, job: JobView, namespace: str) -> JobView:
        """The Job with the reason why it has no pod, where that is known."""
        if job.suspended:
            return replace(job, place=self.places.get(job.uid))
        return replace(job, refusal=await self._refusals.of(job, namespace, self.clock()))

    async def _resolved_of(self, run: LoraFineTune) -> ResolvedRun | None:
        if run.uid not in self._resolved:
            try:
                body = await self.gateway.get(CONFIG_MAPS, run.namespace, config_map_name(run.name))
            except NotFound:
                return None
            if not owned_by(body, run.uid):
                return None
            return self.found_resolved(run, body)
        return self._resolved[run.uid]

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
            await self.gateway.get(CONFIG_MAPS, run.namespace, config_map_name(run.name))
        except NotFound:
            return True
        return False

    def _output_holder(self, run: LoraFineTune) -> str | None:
        """Another unfinished run with the same output that has started or is older. Age alone is not enough: creation
        times are whole seconds, so a run could seem to be as old as one that has already started."""
        mine = (run.created, run.uid)
        others = (record for record in self.cache.runs.of(output_folder(run.spec.output.uri)) if record.uid != run.uid)
        unfinished = (record for record in others if not record.terminal)
        holder = next((one for one in unfinished if self._begun(one) or (one.created, one.uid) < mine), None)
        return "/".join(holder.key) if holder is not None else None

    def _begun(self, record: RunRecord) -> bool:
        return record.begun or bool(self.cache.jobs.keys_of(record.uid))


def _read(body: Body) -> LoraFineTune:
    try:
        return parse_run(body)
    except ValidationError as problem:
        raise Unreadable(parse_stored(body), f"The operator cannot read {first_error(problem)}") from None


def _read_resolved(run: LoraFineTune, body: Body) -> ResolvedRun:
    name = config_map_name(run.name)
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
