"""What is said of a run that this operator's version cannot read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from lora_operator.api.conditions import ConditionType, find
from lora_operator.api.lorafinetune import LoraFineTuneStatus, StoredRun, parse_run
from lora_operator.engine.cache import Cache
from lora_operator.engine.observer import Observer
from lora_operator.engine.reconciler import Reconciler
from lora_operator.kube.gateway import Gateway
from lora_operator.metrics import Metrics
from lora_operator.planning.status import ready_reason
from lora_operator.planning.unreadable import unreadable_plan
from lora_operator.workloads.resolved import config_map, read_config_map
from pydantic import ValidationError

from tests import kstatus
from tests.builders import NAME, NAMESPACE, T0, UID, a_resolved, a_run, after, run_body
from tests.unit.operator.simulation import training

PROBLEM = "The operator cannot read spec.lora.r: Input should be greater than 0"


def stored(status: LoraFineTuneStatus | None = None) -> StoredRun:
    return a_run(status=status)


def test_it_is_said_once_and_nothing_is_done() -> None:
    plan = unreadable_plan(stored(), PROBLEM, T0)
    accepted = find(plan.status.conditions, ConditionType.ACCEPTED)
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("False", "SpecInvalid")
    assert accepted.message.startswith("The operator cannot read spec.lora.r: ")
    assert kstatus.breaches(plan.status.wire(), generation=1) == []
    assert (plan.actions, [event.reason for event in plan.events]) == ((), ["SpecInvalid"])
    again = unreadable_plan(stored(plan.status), PROBLEM, after(60))
    assert (again.status, again.events) == (plan.status, ())


async def test_what_only_a_watch_has_is_looked_at_again() -> None:
    """A watch that was open when the CRDs changed tells of a field that the API server no longer has."""
    live = stored_body(suspend=True)
    stale = live | {"spec": live["spec"] | {"inALaterVersion": "as before"}}
    gateway, metrics = ServerWith(live), Metrics()
    cache = Cache()
    cache.put_run(stale)
    observer = Observer(gateway=cast(Gateway, gateway), cache=cache, clock=lambda: T0)
    reconciler = Reconciler(
        gateway=cast(Gateway, gateway), cache=cache, observer=observer, clock=lambda: T0, metrics=metrics
    )
    told = await reconciler.reconcile((NAMESPACE, NAME))
    assert told.now != "SpecInvalid"
    gateway.body = stale
    told = await reconciler.reconcile((NAMESPACE, NAME))
    assert told.now != "SpecInvalid", "the cache has what was read"
    cache.put_run(stale)
    told = await reconciler.reconcile((NAMESPACE, NAME))
    assert told.now == "SpecInvalid"
    assert told.requeue_after is not None


@dataclass
class ServerWith:
    """An API server with one run."""

    body: dict[str, Any]

    async def get(self, *_: object) -> dict[str, Any]:
        return self.body

    async def create(self, *_: object) -> None:
        """Events are taken and forgotten."""

    async def apply_status(self, *_: object, status: dict[str, Any], **__: object) -> dict[str, Any]:
        return self.body | {"status": status}


def test_a_run_that_has_begun_keeps_its_records() -> None:
    status = training().run.status
    plan = unreadable_plan(stored(status), PROBLEM, after(60))
    assert plan.status.attempts == status.attempts
    assert ready_reason(plan.status) == "SpecInvalid"


@pytest.mark.parametrize("end", ["terminal", "deleting"])
def test_a_run_that_is_over_is_left_alone(end: str) -> None:
    run = stored(unreadable_plan(stored(), PROBLEM, T0).status)
    if end == "deleting":
        run = replace(run, deleting=True)
    else:
        world = training()
        world.end("text-to-sql-train-1", 19)
        world.settle()
        assert world.run.status.terminal
        run = world.run
    plan = unreadable_plan(run, PROBLEM, after(60))
    assert (plan.status, plan.events) == (run.status, ())


def test_a_run_that_has_begun_does_not_mind_fields_of_a_newer_crd() -> None:
    body = stored_body(lora={"r": 4, "mixture": "strong"}, later="as before")
    with pytest.raises(ValidationError, match="mixture"):
        parse_run(body)
    begun = body | {"status": training().run.status.wire()}
    assert parse_run(begun).spec.lora.r == 4


def test_what_a_newer_operator_settled_is_read_after_a_rollback() -> None:
    run = a_run()
    resolved = a_resolved(run)
    body = config_map(run, resolved)
    for key in ("run.json", "class.json"):
        body["data"][key] = json.dumps(json.loads(body["data"][key]) | {"inALaterVersion": {"r": 1}})
    read = read_config_map(body)
    assert (read.run_file.wire(), read.class_spec.wire()) == (resolved.run_file.wire(), resolved.class_spec.wire())


def stored_body(**spec: Any) -> dict[str, Any]:
    body = run_body(**spec)
    made = {"uid": UID, "resourceVersion": "1", "generation": 1, "creationTimestamp": T0.isoformat()}
    return body | {"metadata": body["metadata"] | made}
