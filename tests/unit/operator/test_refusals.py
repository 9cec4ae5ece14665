"""Why Jobs have no pods is asked by namespace, not by Job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from lora_operator.engine.refusals import Refusals
from lora_operator.naming import Stage
from lora_operator.planning.pod_problems import next_look

from tests.builders import NAMESPACE, a_job, after

QUOTA = "exceeded quota: team"


@dataclass
class Events:
    """A gateway that lists these, and counts how often it is asked."""

    told: list[dict[str, Any]]
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def list(self, resource: object, namespace: str, *, fields: str) -> AsyncIterator[dict[str, Any]]:
        del resource
        self.asked.append((namespace, fields))
        for event in self.told:
            yield event


def event(uid: str, seconds: float, message: str) -> dict[str, Any]:
    return {"involvedObject": {"uid": uid}, "lastTimestamp": after(seconds).isoformat(), "message": message}


async def test_one_list_tells_of_all_jobs_of_a_namespace() -> None:
    gateway = Events([event("one", 2, QUOTA), event("one", 1, "older"), event("two", 1, "unsigned image")])
    refusals = Refusals(gateway=gateway)  # pyright: ignore[reportArgumentType] - all that is asked of a gateway here
    jobs = {uid: replace(a_job(Stage.PREPARE), uid=uid, pods=()) for uid in ("one", "two", "three")}
    told = {uid: await refusals.of(job, NAMESPACE, after(4)) for uid, job in jobs.items()}
    assert told == {"one": QUOTA, "two": "unsigned image", "three": None}
    assert gateway.asked == [(NAMESPACE, "reason=FailedCreate")]
    gateway.told.clear()
    assert await refusals.of(jobs["one"], NAMESPACE, after(6)) == QUOTA
    assert await refusals.of(jobs["one"], NAMESPACE, after(7)) is None
    assert len(gateway.asked) == 2


async def test_nobody_asks_about_jobs_that_are_new_or_have_pods() -> None:
    gateway = Events([])
    refusals = Refusals(gateway=gateway)  # pyright: ignore[reportArgumentType] - all that is asked of a gateway here
    waiting = replace(a_job(Stage.PREPARE), pods=())
    assert await refusals.of(waiting, NAMESPACE, after(2)) is None
    assert await refusals.of(replace(waiting, suspended=True), NAMESPACE, after(9)) is None
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("age", "refused", "seconds"),
    [(0, False, 3), (3, False, 3), (12, False, 12), (300, False, 60), (300, True, 10)],
)
def test_a_job_without_a_pod_is_looked_at_ever_more_rarely(age: float, refused: bool, seconds: float) -> None:
    job = a_job(pod_refusal=QUOTA if refused else None)
    assert next_look(job, ended=None, now=after(age)) == timedelta(seconds=seconds)
