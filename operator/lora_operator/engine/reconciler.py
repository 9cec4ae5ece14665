"""Reconciles one run: observe, plan, execute, write status once, then emit Events."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from lora_operator.api.lorafinetune import StoredRun
from lora_operator.engine.cache import Cache
from lora_operator.engine.observer import Clock, Observer, Unreadable, owned_by
from lora_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, Refused, Unavailable
from lora_operator.kube.gateway import CHILD_KINDS, CONFIG_MAPS, EVENTS, JOBS, RUNS, Gateway
from lora_operator.kube.store import Key
from lora_operator.metrics import Metrics
from lora_operator.naming import API_VERSION, FIELD_MANAGER, RUN_KIND
from lora_operator.planning.events import PlannedEvent
from lora_operator.planning.observed import Observed, Refusal
from lora_operator.planning.plan import make_plan
from lora_operator.planning.plan_builder import Create, Delete, Plan
from lora_operator.planning.pod_problems import WEBHOOK_AWAY
from lora_operator.planning.status import ready_reason
from lora_operator.planning.unreadable import unreadable_plan

Body = dict[str, Any]
TAKEN_NAME_RECHECK = timedelta(seconds=5)
MAX_EVENT_MESSAGE = 1024

log = logging.getLogger(__name__)


class NameTaken(Exception):
    """An object of another owner has the name of a child."""


class ChildRefused(Exception):
    """The API server refused to create a child."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.why)
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """The result of a reconcile."""

    requeue_after: timedelta | None = None
    """When the next reconcile is due at the latest."""
    was: str | None = None
    """Reason of Ready before the reconcile."""
    now: str | None = None
    """Reason of Ready after it."""
    actions: tuple[str, ...] = ()


NOTHING = Reconciled()


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Reconciles runs."""

    gateway: Gateway
    cache: Cache
    observer: Observer
    clock: Clock
    metrics: Metrics

    async def reconcile(self, key: Key) -> Reconciled:
        """Reconcile one run. Raises KubeError."""
        try:
            return await self._reconcile(key)
        except Unreadable as found:
            plan = unreadable_plan(found.run, str(found), self.clock())
            return await self._write(found.run, plan)
        except ValidationError as problem:
            # Only the status says whether the run is over. Replacing an unreadable one could start the run again.
            log.error("status unreadable", extra={"run": "/".join(key), "error": str(problem)})
            return NOTHING

    async def _reconcile(self, key: Key) -> Reconciled:
        try:
            observed = await self.observer.look(key)
        except Unreadable:
            # After a change of the CRDs, a watch may still deliver objects with the defaults of the former schema.
            observed = await self.observer.look_live(key)
        if observed is None:
            return NOTHING
        plan = make_plan(observed, self.clock())
        if plan.decisive or plan.actions:
            observed = await self.observer.look_live(key)
            if observed is None:
                self.cache.drop_run_at(key)
                return NOTHING
            plan = make_plan(observed, self.clock())
        return await self._carry_out(observed, plan)

    async def _carry_out(self, observed: Observed, plan: Plan) -> Reconciled:
        # From here to the first request nothing else runs: the decision and its record are one step.
        if plan.starts_attempt:
            self.observer.starting.add(observed.run.uid)
        try:
            for action in plan.actions:
                await self._execute(observed, action)
        except NameTaken as taken:
            plan = make_plan(replace(observed, taken_name=str(taken)), self.clock())
            plan = replace(plan, requeue_after=TAKEN_NAME_RECHECK)
        except ChildRefused as refused:
            plan = make_plan(replace(observed, refused=refused.refusal), self.clock())
        # After any other error the Job may exist all the same: the mark stays until a reconcile knows better.
        self.observer.starting.discard(observed.run.uid)
        return await self._write(observed.run, plan)

    async def _write(self, run: StoredRun, plan: Plan) -> Reconciled:
        if plan.status != run.status:
            await self._write_status(run, plan)
            for event in plan.events:
                await self._emit(run, event)
        if plan.status.terminal or run.deleting:
            self.observer.forget(run.uid)
        return Reconciled(
            requeue_after=plan.requeue_after,
            was=ready_reason(run.status),
            now=ready_reason(plan.status),
            actions=tuple(_name(action) for action in plan.actions),
        )

    async def _execute(self, observed: Observed, action: Create | Delete) -> None:
        if isinstance(action, Create):
            await self._create(observed, action.body)
            return
        resource = CHILD_KINDS[action.kind]
        try:
            await self.gateway.delete(resource, observed.run.namespace, action.name, uid=action.uid)
        except (NotFound, Conflict):
            return  # already gone, or another object with that name, which must stay

    async def _create(self, observed: Observed, body: Body) -> None:
        resource = CHILD_KINDS[body["kind"]]
        name = body["metadata"]["name"]
        try:
            created = await self.gateway.create(resource, body)
        except (Refused, Unavailable) as answer:
            if isinstance(answer, Unavailable) and WEBHOOK_AWAY not in answer.said:
                raise
            raise ChildRefused(Refusal(child=f"{body['kind']} {name}", why=answer.said)) from None
        except AlreadyExists:
            created = await self.gateway.get(resource, observed.run.namespace, name)
            if not owned_by(created, observed.run.uid):
                raise NameTaken(f"{body['kind']} {name}") from None
            if resource is CONFIG_MAPS:
                self.observer.found_resolved(observed.run, created)
                raise Conflict(f"ConfigMap {name} already exists; the plan was made without it", status=409) from None
        if resource is JOBS:
            self.cache.put_job(created)
        elif resource is CONFIG_MAPS:
            self.observer.found_resolved(observed.run, created)

    async def _write_status(self, run: StoredRun, plan: Plan) -> None:
        # Write to the version that the plan was made for. If the run has changed since, the write must fail.
        written = await self.gateway.apply_status(
            RUNS, run.namespace, run.name, uid=run.uid, resource_version=run.resource_version, status=plan.status.wire()
        )
        self.cache.put_run(written)
        self.metrics.status_written(run, plan.status, now=self.clock())

    async def _emit(self, run: StoredRun, event: PlannedEvent) -> None:
        """Create an Event. One that is lost is logged and not retried, because nothing depends on it."""
        try:
            await self.gateway.create(EVENTS, event_body(run, event, now=self.clock()))
        except KubeError as problem:
            log.warning("event lost", extra={"run": run.full_name, "error": str(problem)})


def event_body(run: StoredRun, event: PlannedEvent, *, now: datetime) -> Body:
    """The Event object."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{run.name}-", "namespace": run.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": RUN_KIND,
            "name": run.name,
            "namespace": run.namespace,
            "uid": run.uid,
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:MAX_EVENT_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def _name(action: Create | Delete) -> str:
    if isinstance(action, Create):
        return f"create {action.body['kind']} {action.body['metadata']['name']}"
    return f"delete {action.kind} {action.name}"
