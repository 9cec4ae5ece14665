"""Reconciles one run: observe, plan, execute, write status once, then emit Events."""

from __future__ import annotations

import logging
from contextlib import suppress
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
from lora_operator.planning.decision import make_plan
from lora_operator.planning.events import PlannedEvent
from lora_operator.planning.observed import Observed, Refusal, TakenName
from lora_operator.planning.plan import Create, Delete, Plan
from lora_operator.planning.pod_problems import WEBHOOK_AWAY
from lora_operator.planning.status import ready_reason
from lora_operator.planning.unreadable import unreadable_plan

Body = dict[str, Any]
MAX_EVENT_MESSAGE = 1024

log = logging.getLogger(__name__)


class Hindered(Exception):
    """A child cannot be created, so another plan is needed."""

    def __init__(self, observed: Observed) -> None:
        super().__init__()
        self.observed = observed
        """What was observed before, and what hinders the plan."""


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
        self._note_start(observed, plan)
        try:
            for action in plan.actions:
                await self._execute(observed, action)
        except Hindered as met:
            plan = make_plan(met.observed, self.clock())
        # After any other error the Job may exist all the same: the mark stays until a reconcile knows better.
        self.cache.starting.discard(observed.run.uid)
        return await self._write(observed.run, plan)

    def _note_start(self, observed: Observed, plan: Plan) -> None:
        """Mark a run whose attempt starts: from now on it holds its output and a place, also where it never becomes
        known whether its Job was created. Nothing is awaited between the look at other runs and this."""
        if plan.starts_attempt:
            self.cache.starting.add(observed.run.uid)
        else:
            self.cache.starting.discard(observed.run.uid)

    async def _write(self, run: StoredRun, plan: Plan) -> Reconciled:
        if plan.status != run.status:
            await self._write_status(run, plan)
            for event in plan.events:
                await self._emit(run, event)
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
        await self._delete(observed, action)

    async def _delete(self, observed: Observed, action: Delete) -> None:
        """Delete exactly the object that was seen, or else the one of that name that the run owns."""
        resource, namespace = CHILD_KINDS[action.kind], observed.run.namespace
        try:
            uid = action.uid
            if uid is None:
                found = await self.gateway.get(resource, namespace, action.name)
                if not owned_by(found, observed.run.uid):
                    return
                uid = found["metadata"]["uid"]
            await self.gateway.delete(resource, namespace, action.name, uid=uid)
        except (NotFound, Conflict):
            return  # already gone, or another object with that name, which must stay

    async def _create(self, observed: Observed, body: Body) -> None:
        resource, run = CHILD_KINDS[body["kind"]], observed.run
        child = f"{body['kind']} {body['metadata']['name']}"
        found = await self._found_or_created(observed, body, child=child)
        if not owned_by(found, run.uid):
            raise Hindered(replace(observed, taken=TakenName(child=child)))
        forged = Hindered(replace(observed, taken=TakenName(child=child, forged=True)))
        if resource is CONFIG_MAPS:
            if found.get("data") != body["data"]:
                raise forged
            self.observer.found_resolved(run, found)
        if resource is JOBS and not self.cache.put_job(found):
            raise forged

    async def _found_or_created(self, observed: Observed, body: Body, *, child: str) -> Body:
        resource, namespace, name = CHILD_KINDS[body["kind"]], observed.run.namespace, body["metadata"]["name"]
        try:
            # A quota that is used up also refuses to create what exists.
            if observed.begun and resource is not JOBS:
                with suppress(NotFound):
                    return await self.gateway.get(resource, namespace, name)
            return await self.gateway.create(resource, body)
        except AlreadyExists:
            return await self.gateway.get(resource, namespace, name)
        except (Refused, Unavailable) as answer:
            if isinstance(answer, Unavailable) and WEBHOOK_AWAY not in answer.said:
                raise
            raise Hindered(replace(observed, child_refusal=Refusal(child=child, why=answer.said))) from None

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
