"""Plays one step against the API server and says how it ended."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lora_operator import naming
from lora_operator.api.lorafinetune import parse_run
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage, config_map_name, job_name
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import read_config_map

from tests.builders import run_body
from tests.cluster.api import Api, Refused
from tests.fuzz.judge import End, Outcome, Violation, refused, settled
from tests.fuzz.steps import NAMESPACE, Body, Deed, Step

PATIENCE = 30
"""Seconds in which every object must have ended one way or another."""
LOOK_EVERY = 0.25
MERGE = "application/merge-patch+json"
_GROUP = f"/apis/{naming.API_VERSION}"
RUNS = f"{_GROUP}/namespaces/{NAMESPACE}/{naming.RUN_PLURAL}"
CLASSES = f"{_GROUP}/{naming.CLASS_PLURAL}"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"


@dataclass(frozen=True, kw_only=True)
class Player:
    """Plays steps on one API server."""

    api: Api

    async def play(self, step: Step) -> Outcome:
        """How the step's object ended. Raises Violation."""
        try:
            return await (self._play_run(step) if step.kind == naming.RUN_KIND else self._play_class(step))
        except Refused as told:
            return refused(told.status, told.answer)

    async def _play_run(self, step: Step) -> Outcome:
        if step.deed is not Deed.EDIT:
            async with self._made(RUNS, step.body, strict=step.strict) as made:
                return await self._deleted(made) if step.deed is Deed.DELETE else await self._resolved(made)
        async with self._sound(RUNS, step) as made:
            before = await self._resolved(made)
            if before.end not in (End.RUNNING, End.SUSPENDED):
                raise Violation(f"the sound object is {before.end}: {before.reason}")
            return await self._resolved(await self._replace(RUNS, made, step))

    async def _play_class(self, step: Step) -> Outcome:
        """What a class comes to is seen from a run of it."""
        if step.deed is Deed.EDIT:
            async with self._sound(CLASSES, step) as made, self._probe(made, step) as probe:
                return await self._edited(made, probe, step)
        async with self._made(CLASSES, step.body, strict=step.strict) as made, self._probe(made, step) as probe:
            if step.deed is Deed.DELETE:
                await self._delete(CLASSES, made["metadata"]["name"])
            return await self._resolved(probe, class_is_there=step.deed is Deed.CREATE)

    async def _edited(self, made: Body, probe: Body, step: Step) -> Outcome:
        """A class that changes touches no run that has begun."""
        before = await self._resolved(probe, class_is_there=True)
        job = await self._job(probe)
        await self._replace(CLASSES, made, step)
        outcome = await self._resolved(await self._change(probe["metadata"]["name"], retryLimit=7))
        if before.end is End.RUNNING and (outcome.end is not End.RUNNING or await self._job(probe) != job):
            raise Violation(f"a run is {outcome.end} ({outcome.reason}) after an edit of its class")
        return outcome

    @asynccontextmanager
    async def _sound(self, path: str, step: Step) -> AsyncIterator[Body]:
        """The step's sound object, which nobody may refuse."""
        async with AsyncExitStack() as stack:
            try:
                made = await stack.enter_async_context(self._made(path, step.sound))
            except Refused as told:
                raise Violation(f"the sound object is refused: {told.answer.get('message')}") from None
            yield made

    @asynccontextmanager
    async def _probe(self, of: Body, step: Step) -> AsyncIterator[Body]:
        """The smallest run of a class."""
        output = {"uri": f"s3://{NAMESPACE}/fuzz/{step.number}"}
        run = run_body(f"fuzz-{step.number}", className=of["metadata"]["name"], output=output)
        async with self._made(RUNS, run) as made:
            yield made

    async def _resolved(self, made: Body, *, class_is_there: bool = False) -> Outcome:
        """How the run stands once the operator has said all; where `class_is_there`, it will hear of it in a moment."""
        name = made["metadata"]["name"]

        async def look() -> Outcome | None:
            run = await self.api.request("GET", _path(RUNS, name))
            found = settled(run) if run["metadata"]["generation"] >= made["metadata"]["generation"] else None
            if found is not None and class_is_there and found.reason == "ClassNotFound":
                return None
            return found

        outcome = await _until(f"the operator has said how {name} stands", look)
        if outcome.end is End.RUNNING and outcome.reason != Reason.STOPPING:
            await self._check_jobs(made)
        return outcome

    async def _check_jobs(self, made: Body) -> None:
        """The Job of prepare is there, and the API server would take that of training as well."""
        if await self._job(made) is None:
            raise Violation("it is said to run and has no Job")
        name = made["metadata"]["name"]
        run = parse_run(await self.api.request("GET", _path(RUNS, name)))
        resolved = read_config_map(await self.api.request("GET", _path(CONFIG_MAPS, config_map_name(name, run.uid))))
        job = stage_job(StageRequest(run=run, resolved=resolved, stage=Stage.TRAIN, attempt=1))
        try:
            await self.api.request("POST", f"{JOBS}?dryRun=All", job)
        except Refused as told:
            raise Violation(f"the API server would refuse its train Job: {told.answer.get('message')}") from None

    async def _job(self, made: Body) -> str | None:
        """The uid of the run's first Job."""
        name = job_name(made["metadata"]["name"], Stage.PREPARE, 1)
        try:
            return (await self.api.request("GET", _path(JOBS, name)))["metadata"]["uid"]
        except Refused as told:
            if told.status == 404:
                return None
            raise

    async def _deleted(self, made: Body) -> Outcome:
        name = made["metadata"]["name"]
        await self._delete(RUNS, name)

        async def gone() -> Outcome | None:
            try:
                await self.api.request("GET", _path(RUNS, name))
            except Refused as told:
                if told.status == 404:
                    return Outcome(end=End.DELETED, reason="")
                raise
            return None

        return await _until(f"{name} is deleted", gone)

    @asynccontextmanager
    async def _made(self, path: str, body: Body, *, strict: bool = True) -> AsyncIterator[Body]:
        """The object as it was created; it goes with the block."""
        made = await self.api.request("POST", f"{path}?{_validation(strict)}", body)
        try:
            yield made
        finally:
            await self._delete(path, made["metadata"]["name"])

    async def _delete(self, path: str, name: str) -> None:
        """Delete what may be gone already, whatever holds it."""
        address = _path(path, name)
        release = {"metadata": {"finalizers": None}}
        for method, body in (("PATCH", release), ("DELETE", None)):
            try:
                await self.api.request(method, address, body, content=MERGE)
            except Refused as told:
                if told.status != 404:
                    raise

    async def _replace(self, path: str, made: Body, step: Step) -> Body:
        """PUT, as whoever has just read the object."""
        name = made["metadata"]["name"]
        while True:
            now = await self.api.request("GET", _path(path, name))
            body = copy.deepcopy(step.body)
            if isinstance(body.get("metadata"), dict):
                body["metadata"].setdefault("resourceVersion", now["metadata"]["resourceVersion"])
            try:
                return await self.api.request("PUT", f"{_path(path, name)}?{_validation(step.strict)}", body)
            except Refused as told:
                if told.status != 409 or "object has been modified" not in told.text:
                    raise

    async def _change(self, name: str, **spec: Any) -> Body:
        return await self.api.request("PATCH", _path(RUNS, name), {"spec": spec}, content=MERGE)


async def _until(what: str, look: Callable[[], Awaitable[Outcome | None]]) -> Outcome:
    deadline = time.monotonic() + PATIENCE
    while (found := await look()) is None:
        if time.monotonic() > deadline:
            raise Violation(f"waited {PATIENCE} s in vain until {what}")
        await asyncio.sleep(LOOK_EVERY)
    return found


def _path(path: str, name: str) -> str:
    return f"{path}/{quote(name, safe='')}"


def _validation(strict: bool) -> str:
    return f"fieldValidation={'Strict' if strict else 'Ignore'}"
