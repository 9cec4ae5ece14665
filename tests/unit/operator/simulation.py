"""One run and its Jobs in memory: plans are carried out at once, and time passes when told.

Every status goes through JSON and back, as through an API server, and is checked on the way. No asyncio, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from lora_operator.api.lorafinetune import LoraFineTune, LoraFineTuneStatus
from lora_operator.naming import ATTEMPT_LABEL, STAGE_LABEL, Stage
from lora_operator.planning.decision import make_plan
from lora_operator.planning.observed import ClassView, JobView, Observed, PodView, Termination
from lora_operator.planning.plan import Action, Create, Plan
from lora_operator.planning.status import ready_reason
from lora_operator.workloads.resolved import ResolvedRun, read_config_map
from lora_trainer.contract.exits import ExitCode

from tests import kstatus
from tests.builders import NAME, RUN_ID, T0, a_class, a_run, failed_text, prepared_text, trained_text

PREPARE = f"{NAME}-prepare-1"
TRAIN = f"{NAME}-train-1"
TRAIN_2 = f"{NAME}-train-2"


@dataclass
class Simulation:
    """A world with one run in it."""

    run: LoraFineTune = field(default_factory=a_run)
    classes: tuple[ClassView, ...] = field(default_factory=lambda: (a_class(),))
    now: datetime = T0
    jobs: dict[str, JobView] = field(default_factory=dict)
    resolved: ResolvedRun | None = None
    created: list[str] = field(default_factory=list)
    """Names of all Jobs ever created."""
    events: list[str] = field(default_factory=list)
    """Reasons of all Events."""
    services: set[str] = field(default_factory=set)
    """Names of all Services."""
    slow_deletion: bool = False
    """Whether a deleted Job waits for its pod to stop."""
    _pods: int = 0

    # --- what the operator does ---------------------------------------------------------------------------------

    def observe(self, **fields: Any) -> Observed:
        seen: dict[str, Any] = {"classes": self.classes, "resolved": self.resolved}
        return Observed(run=self.run, jobs=tuple(self.jobs.values()), **(seen | fields))

    def reconcile(self, *, lose_status: bool = False, **observed: Any) -> Plan:
        """One reconcile of the operator; with `lose_status` it dies between its actions and the status write."""
        plan = make_plan(self.observe(**observed), self.now)
        for action in plan.actions:
            self._execute(action)
        if not lose_status:
            self._write(plan)
        return plan

    def settle(self, **observed: Any) -> Plan:
        """Turns until one changes nothing."""
        plans: list[Plan] = []
        while len(plans) < 6:
            before = (self.run.status, dict(self.jobs))
            plans.append(self.reconcile(**observed))
            if (self.run.status, self.jobs) == before:
                return plans[-1]
        raise AssertionError(f"six turns and still no rest: {plans[-1]}")

    def _execute(self, action: Action) -> None:
        if isinstance(action, Create):
            self._create(action.body)
        elif action.kind == "ConfigMap":
            self.resolved = None
        elif action.kind == "Service":
            self.services.discard(action.name)
        elif action.name in self.jobs:
            self.delete_job(action.name)

    def _create(self, body: dict[str, Any]) -> None:
        if body["kind"] == "ConfigMap":
            made = read_config_map(body)
            assert self.resolved in (None, made), "the ConfigMap is immutable"
            assert self.run.status.resolved_digest == made.digest, "it is recorded before it is created"
            self.resolved = made
            return
        labels, name = body["metadata"]["labels"], body["metadata"]["name"]
        if body["kind"] == "Service":
            self.services.add(name)
            return
        if name in self.jobs:
            return  # AlreadyExists, and our own
        known = {(attempt.stage, str(attempt.number)) for attempt in self.run.status.attempts}
        assert (labels[STAGE_LABEL], labels[ATTEMPT_LABEL]) not in known, "an attempt is made once"
        self.created.append(name)
        self.jobs[name] = JobView(
            name=name,
            uid=f"uid-{name}-{len(self.created)}",
            run=RUN_ID,
            stage=Stage(labels[STAGE_LABEL]),
            attempt=int(labels[ATTEMPT_LABEL]),
            created=self.now,
            suspended=False,
            deleting=False,
            finished=None,
            nodes=body["spec"]["completions"],
        )
        for index in range(self.jobs[name].nodes):
            self._new_pod(name, index)

    def _write(self, plan: Plan) -> None:
        if plan.status == self.run.status:
            return
        before, after = self.run.status.wire(), plan.status.wire()
        assert kstatus.breaches(after, generation=self.run.generation) == []
        assert kstatus.regressions(before, after) == []
        self.events += [event.reason for event in plan.events]
        self.run = replace(self.run, status=LoraFineTuneStatus.model_validate(after))

    # --- what the cluster does ----------------------------------------------------------------------------------

    def _new_pod(self, job: str, index: int = 0) -> None:
        self._pods += 1
        view = self.jobs[job]
        pod = PodView(
            name=f"{job}-{self._pods}",
            run=RUN_ID,
            job_uid=view.uid,
            phase="Pending",
            created=self.now,
            index=index,
        )
        self.jobs[job] = replace(view, pods=(*view.pods, pod))

    def change_pod(self, job: str, **fields: Any) -> None:
        """Something happens to the newest pod of a Job."""
        self.change_pod_of(job, 0, **fields)

    def change_pod_of(self, job: str, number: int, **fields: Any) -> None:
        """Something happens to the newest one of several pods that has this number."""
        view = self.jobs[job]
        newest = next(pod for pod in view.newest_pods if pod.index == number)
        pods = tuple(replace(pod, **fields) if pod is newest else pod for pod in view.pods)
        self.jobs[job] = replace(view, pods=pods)

    def start(self, job: str) -> None:
        """The newest pods run."""
        for pod in self.jobs[job].newest_pods:
            node, ip = f"node-{pod.index + 1}", f"127.0.0.{pod.index + 2}"
            fields = {"phase": "Running", "scheduled": self.now, "started": self.now, "node": node, "ip": ip}
            self.change_pod_of(job, pod.index, **fields)

    def end(self, job: str, code: int, text: str = "", *, kubelet_reason: str = "") -> None:
        """The newest pod starts, if it has not yet, and ends; the Job controller draws its conclusion."""
        pod = self.jobs[job].newest_pod
        assert pod is not None
        if pod.started is None:
            self.start(job)
        reason = kubelet_reason or ("Error" if code else "Completed")
        word = Termination(exit_code=code, kubelet_reason=reason, text=text, finished=self.now)
        self.change_pod(job, phase="Failed" if code else "Succeeded", termination=word)
        if code == 40:
            self._new_pod(job)  # podFailurePolicy ignores it
        else:
            self.jobs[job] = replace(self.jobs[job], finished="Failed" if code else "Complete")

    def delete_job(self, job: str) -> None:
        """Somebody deletes a Job; its pods get a SIGTERM."""
        view = self.jobs[job]
        if self.slow_deletion and not view.over:
            self.jobs[job] = replace(view, deleting=True)
        else:
            del self.jobs[job]

    def finish_deletions(self) -> None:
        """The pods of deleted Jobs have stopped."""
        self.jobs = {name: job for name, job in self.jobs.items() if not job.deleting}

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def edit(self, **spec: Any) -> None:
        """The user changes the spec."""
        changed = self.run.spec.model_copy(update=spec)
        self.run = replace(self.run, spec=changed, generation=self.run.generation + 1)

    # --- what there is to see -----------------------------------------------------------------------------------

    @property
    def reason(self) -> str:
        return ready_reason(self.run.status) or ""

    def condition(self, kind: str) -> tuple[str, str] | None:
        """Status and reason of a condition."""
        found = (entry for entry in self.run.status.conditions if entry.type == kind)
        return next(((entry.status, entry.reason) for entry in found), None)

    @property
    def message(self) -> str:
        return next(entry.message for entry in self.run.status.conditions if entry.type == "Ready")

    @property
    def live_train_jobs(self) -> list[str]:
        return [job.name for job in self.jobs.values() if job.stage is Stage.TRAIN and not job.over]


# --- worlds that have come so far ---------------------------------------------------------------------------------


def preparing(*, classes: tuple[ClassView, ...] | None = None, **spec: Any) -> Simulation:
    world = Simulation(run=a_run(**spec), classes=classes or (a_class(),))
    world.settle()
    return world


def starting(*, micro_batch: int = 8, accumulation: int = 1, **spec: Any) -> Simulation:
    world = preparing(**spec)
    world.pass_time(5)
    world.start(PREPARE)
    world.pass_time(20)
    world.end(PREPARE, 0, prepared_text(micro_batch=micro_batch, accumulation=accumulation))
    world.settle()
    return world


def training(*, micro_batch: int = 8, accumulation: int = 1, **spec: Any) -> Simulation:
    world = starting(micro_batch=micro_batch, accumulation=accumulation, **spec)
    world.pass_time(10)
    world.start(TRAIN)
    world.settle()
    return world


def complete(**spec: Any) -> Simulation:
    world = training(**spec)
    world.pass_time(600)
    world.end(TRAIN, 0, trained_text())
    world.settle()
    return world


def failed(**spec: Any) -> Simulation:
    world = training(**spec)
    world.end(TRAIN, ExitCode.Diverged, failed_text(ExitCode.Diverged))
    world.settle()
    return world


# --- Jobs of attempts ---------------------------------------------------------------------------------------------


def train_job(number: int) -> str:
    return f"{NAME}-train-{number}"


def fail_train(world: Simulation, code: int, *, text: str | None = None, attempt: int = 1, **how: str) -> None:
    words = failed_text(ExitCode(code)) if text is None and code in list(ExitCode) else text or ""
    world.end(train_job(attempt), code, words, **how)
    world.settle()
