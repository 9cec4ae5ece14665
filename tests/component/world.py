"""A small world for the operator: fake API server, fake kubelet, a trainer that answers, a clock that can be moved.

The operator itself is the real one: the handlers of `lora_operator.handlers`, run by Kopf, with its own gateway.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kopf
from aiohttp import web
from lora_operator import handlers, naming
from lora_operator.naming import Stage, job_name
from lora_operator.settings import OperatorSettings
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.progress import PATH, PORT, Progress

from tests import installs, kstatus
from tests.access_rules import Access, Account, allowed
from tests.builders import NAME, NAMESPACE, class_body, failed_text, prepared_text, run_body, trained_text
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.faults import Fault, RecordedRequest
from tests.fakes.kubelet import Kubelet
from tests.fakes.operator_thread import running_operator
from tests.fakes.store import Change
from tests.ports import free_port

Body = dict[str, Any]
RUNS = f"{naming.RUN_PLURAL}.{naming.GROUP}"
CRDS = sorted((Path(__file__).parents[2] / "manifests" / "crd").glob("*.yaml"))
PATIENCE = 60.0
"""Seconds for what must happen: it takes fractions of one, unless other tests and programs keep the processors busy."""
QUIET_SECONDS = 0.3
LOOK_SECONDS = 0.05

_addresses = itertools.count(1)


class Clock:
    """The time in whole seconds, which a test can move forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return (datetime.now(UTC) + self._ahead).replace(microsecond=0)

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


@dataclass
class World:
    """Everything outside the operator, and what it did there."""

    server: FakeApiServer
    kubelet: Kubelet
    clock: Clock
    statuses: dict[str, list[Body]] = field(default_factory=dict)
    """Every status ever written, by uid of the run."""
    breaches: list[str] = field(default_factory=list)
    rights: list[tuple[Account, list[Body]]] = field(default_factory=list)
    """Accounts of the operators that run, with the roles that their manifests give them."""
    forbidden: list[str] = field(default_factory=list)
    """Requests that RBAC would refuse to all of them."""

    # --- people -------------------------------------------------------------------------------------------------

    def apply(self, name: str = NAME, **spec: Any) -> Body:
        """A user applies a run."""
        return self.server.create(run_body(name, **spec))

    def config_map(self, name: str = NAME) -> str:
        """Name of the run's ConfigMap."""
        return naming.config_map_name(name, self.run(name)["metadata"]["uid"])

    def edit(self, name: str = NAME, **spec: Any) -> Body:
        """A user changes fields of the spec."""
        return self.server.patch(naming.RUN_PLURAL, name, NAMESPACE, merge={"spec": spec})

    def poke(self, name: str = NAME) -> None:
        """Something harmless happens to the run, so that it is reconciled."""
        merge = {"metadata": {"annotations": {"poked": self.clock().isoformat() + os.urandom(4).hex()}}}
        self.server.patch(naming.RUN_PLURAL, name, NAMESPACE, merge=merge)

    def pass_time(self, seconds: float, name: str = NAME) -> None:
        """Time passes, and the operator is made to look."""
        self.clock.advance(seconds)
        self.poke(name)

    # --- the trainer --------------------------------------------------------------------------------------------

    async def pod(self, stage: Stage, attempt: int = 1, *, name: str = NAME) -> Body:
        """The live pod of an attempt, as soon as there is one."""
        return await self.kubelet.pod_of(job_name(name, stage, attempt), NAMESPACE, timeout=PATIENCE)

    async def start(self, stage: Stage, attempt: int = 1, *, name: str = NAME, ip: str = "127.0.0.1") -> Body:
        """The pod of an attempt runs."""
        pod = await self.pod(stage, attempt, name=name)
        self.kubelet.start(pod, pod_ip=ip)
        return pod

    async def end(self, stage: Stage, attempt: int = 1, *, code: int, text: str = "", name: str = NAME) -> None:
        """The pod of an attempt runs and ends."""
        pod = await self.start(stage, attempt, name=name)
        self.kubelet.terminate(pod, exit_code=code, message=text)

    async def prepare(self, *, name: str = NAME, attempt: int = 1, **result: Any) -> None:
        """Prepare goes well."""
        await self.end(Stage.PREPARE, attempt, code=0, text=prepared_text(**result), name=name)

    async def train(self, attempt: int = 1, *, name: str = NAME) -> None:
        """Training goes well."""
        await self.end(Stage.TRAIN, attempt, code=0, text=trained_text(), name=name)

    async def begin_training(self) -> Body:
        """A run is applied and trains. The pod is returned."""
        self.apply()
        await self.prepare()
        pod = await self.start(Stage.TRAIN)
        await self.until("Training")
        return pod

    async def fail_training(self, attempt: int = 1) -> None:
        """An attempt of training ends for want of its store, and the pause after it passes."""
        await self.end(Stage.TRAIN, attempt, code=50, text=failed_text(ExitCode.StorageUnavailable))
        await self.until("BackingOff")
        self.pass_time(600)

    @asynccontextmanager
    async def kind_cluster(self) -> AsyncIterator[None]:
        """Meanwhile every pod is scheduled, runs, and does what it should."""

        async def play() -> None:
            while True:
                for pod in self.server.objects("pods", NAMESPACE):
                    self._play(pod)
                await asyncio.sleep(0.02)

        task = asyncio.create_task(play())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _play(self, pod: Body) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            return
        if pod["status"]["phase"] == "Pending":
            self.kubelet.start(pod)
        elif pod["status"]["phase"] == "Running":
            preparing = pod["metadata"]["labels"][naming.STAGE_LABEL] == Stage.PREPARE
            self.kubelet.terminate(pod, exit_code=0, message=prepared_text() if preparing else trained_text())

    # --- what came of it ----------------------------------------------------------------------------------------

    def run(self, name: str = NAME) -> Body:
        """The run as it stands."""
        return self.server.get(naming.RUN_PLURAL, name, NAMESPACE)

    def status(self, name: str = NAME) -> Body:
        """Its status."""
        return self.run(name).get("status", {})

    def condition(self, kind: str, name: str = NAME) -> Body:
        """One condition; an empty dict when it is not there."""
        found = (entry for entry in self.status(name).get("conditions", ()) if entry["type"] == kind)
        return next(found, {})

    def reason(self, name: str = NAME) -> str:
        """The word that says where the run stands."""
        return self.condition("Ready", name).get("reason", "")

    async def until(self, reason: str, name: str = NAME, *, within: float = PATIENCE) -> Body:
        """Wait for that word; the status is returned."""

        def there() -> bool:
            return self.reason(name) == reason

        try:
            await self.server.wait_for(there, timeout=within)
        except AssertionError as problem:
            raise AssertionError(f"{name} never came to {reason}, but went {self.story(name)}; {problem}") from None
        return self.status(name)

    async def settle(self, seconds: float = QUIET_SECONDS) -> None:
        """Until nothing was asked of the API server for so long, watches aside.

        In short sleeps: on a busy machine each of them takes longer, and the operator has had its turn between any two.
        """
        asked, quiet = len(self.server.requests), 0.0
        while quiet < seconds:
            await asyncio.sleep(LOOK_SECONDS)
            before, asked = asked, len(self.server.requests)
            quiet = quiet + LOOK_SECONDS if asked == before else 0.0

    def story(self, name: str = NAME) -> list[str]:
        """The reasons of Ready, status by status."""
        seen = self.statuses.get(self.run(name)["metadata"]["uid"], [])
        entries = (entry for status in seen for entry in status.get("conditions", ()))
        return [entry["reason"] for entry in entries if entry["type"] == "Ready"]

    def jobs(self, name: str = NAME) -> list[str]:
        """Names of the run's Jobs that are there now."""
        found = self.server.objects("jobs", NAMESPACE)
        return sorted(job["metadata"]["name"] for job in found if job["metadata"]["labels"][naming.RUN_LABEL] == name)

    def created_jobs(self) -> list[str]:
        """Every Job that the API server really created, in order."""
        return list(self._created_jobs)

    def writes(self) -> list[RecordedRequest]:
        """Every write of the operator, apart from elections and the status of classes, which intervals decide."""
        written = self.server.writes(user_agent=naming.FIELD_MANAGER)
        return [request for request in written if not request.resource.startswith(("leases", naming.CLASS_PLURAL))]

    def _is_forbidden(self, request: RecordedRequest) -> bool:
        """Whether no operator has the right to send this request. Discovery is open to everybody."""
        if not request.resource or not self.rights:
            return False
        plural, _, group = request.resource.partition(".")
        access = Access(
            verb=request.verb,
            group=group,
            resource=f"{plural}/{request.subresource}" if request.subresource else plural,
            namespace=request.namespace,
            name=request.name,
        )
        if any(allowed(access, account, objects) for account, objects in self.rights):
            return False
        self.forbidden.append(f"{request.verb} {request.path}")
        return True

    _created_jobs: list[str] = field(default_factory=list)

    def _on_change(self, change: Change) -> None:
        if change.key == "jobs.batch" and change.old is None and change.new is not None:
            self._created_jobs.append(change.new["metadata"]["name"])
        if change.key != RUNS or change.new is None or "status" not in change.new:
            return
        seen = self.statuses.setdefault(change.new["metadata"]["uid"], [])
        status = change.new["status"]
        if seen and seen[-1] == status:
            return
        generation = change.new["metadata"]["generation"]
        self.breaches += kstatus.breaches(status, generation=generation)
        if seen:
            self.breaches += kstatus.regressions(seen[-1], status)
        seen.append(status)


@asynccontextmanager
async def a_world(*, default_class: bool = True, crds: Sequence[Path | Body] = CRDS) -> AsyncIterator[World]:
    """The world without an operator. Leaving it checks every status that was written."""
    clock = Clock()
    async with (
        FakeApiServer(crds=crds, namespaces=[NAMESPACE, OperatorSettings().namespace], clock=clock) as server,
        Kubelet(server) as kubelet,
    ):
        world = World(server=server, kubelet=kubelet, clock=clock)
        server.store.listeners.append(world._on_change)
        server.faults.add(Fault(when=world._is_forbidden, status=403, reason="Forbidden", count=None))
        if default_class:
            server.create(class_body())
        yield world
    assert world.breaches == []
    assert world.forbidden == [], "manifests give the operator too few rights"
    assert server.violations == [], "the operator asked for Secrets"


@asynccontextmanager
async def an_operator(world: World, kubeconfig: Path, *, replicas: int = 1, **settings: Any) -> AsyncIterator[None]:
    """The operator runs, and its watches are open; with it there are so many."""
    world.server.kubeconfig(kubeconfig)
    registry = kopf.OperatorRegistry()
    chosen = OperatorSettings.model_validate({"workers": 4, "port": free_port(), "poll_seconds": 0.2} | settings)
    handlers.register(registry, chosen, clock=world.clock)
    kopf.on.startup(registry=registry)(_hurry)
    namespaces = chosen.scope.only
    rights = installs.rights(home=chosen.namespace, served=namespaces)
    world.rights.append(rights)
    async with running_operator(registry=registry, settings=kopf.OperatorSettings(), namespaces=namespaces):
        streams = dict.fromkeys((RUNS, "jobs.batch", "pods"), replicas * max(len(namespaces), 1))
        streams[f"{naming.CLASS_PLURAL}.{naming.GROUP}"] = replicas
        await world.server.wait_for(
            lambda: all(world.server.hub.open_streams(kind) == count for kind, count in streams.items()),
            timeout=PATIENCE,
            what="the operator's watches",
        )
        yield
    world.rights.remove(rights)
    world.server.drop_watches()  # the server notices a client that is gone only when it writes to it


async def _hurry(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Kopf's own pauses, shortened."""
    settings.watching.reconnect_backoff = 0.01
    settings.networking.error_backoffs = [0.05] * 100
    settings.queueing.idle_timeout = 0.05
    settings.process.ultimate_exiting_timeout = None


def local_address() -> str:
    """An address of this machine that no other test uses: pods answer on one port, so each needs its own."""
    return f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}.{next(_addresses)}"


@dataclass
class Answers:
    """What a train pod answers, and how often it was asked."""

    now: Progress | None = None
    asked: int = 0


@asynccontextmanager
async def a_progress_server(ip: str) -> AsyncIterator[Answers]:
    """A train pod at this address; one that has nothing to answer is not ready."""
    answers = Answers()

    async def answer(_: web.Request) -> web.Response:
        answers.asked += 1
        return web.json_response(answers.now.wire()) if answers.now is not None else web.Response(status=503)

    app = web.Application()
    app.add_routes([web.get(PATH, answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, ip, PORT).start()
    try:
        yield answers
    finally:
        await runner.cleanup()
