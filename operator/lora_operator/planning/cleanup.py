"""Deletes children of a run that are no longer needed: Jobs of old failed attempts, and all children some time after
the run has ended. The run itself and its status stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lora_trainer.contract.exits import ExitCode

from lora_operator.api.lorafinetuneclass import DEFAULT_HISTORY_LIMIT, DEFAULT_RETENTION_SECONDS
from lora_operator.naming import config_map_name, service_name
from lora_operator.planning.observed import JobView, Observed
from lora_operator.planning.plan_builder import Action, Delete, Plan
from lora_operator.planning.pod_problems import SIDECAR_PATIENCE
from lora_operator.planning.status import seen


def after_the_end(observed: Observed, now: datetime) -> Plan:
    """The plan for a run that has ended: start nothing, delete Jobs that still run, and later all children."""
    run = observed.run
    plan = Plan(status=seen(run.status, generation=run.generation), actions=stop_live(observed.jobs))
    if run.status.completion_time is None or not observed.jobs:
        return plan
    age = now - run.status.completion_time
    if (left := lifetime(observed) - age) > timedelta():
        return replace(_end_lingering(observed, plan, age=age), requeue_after=_sooner(observed, left, age=age))
    # Jobs are deleted last: while one exists, a plan that was interrupted is made again.
    others = [Delete(kind="ConfigMap", name=config_map_name(run.name))]
    if any(job.nodes > 1 for job in observed.jobs):
        others.append(Delete(kind="Service", name=service_name(run.name)))
    return replace(plan, actions=(*others, *(delete_job(job) for job in observed.jobs if not job.deleting)))


def _lingering(observed: Observed) -> tuple[JobView, ...]:
    """Jobs that did what they should and yet do not end, because another container keeps their pod running."""
    return tuple(job for job in observed.jobs if job.over and job.finished is None and not job.deleting)


def _end_lingering(observed: Observed, plan: Plan, *, age: timedelta) -> Plan:
    """The plan in which pods of a finished run do not hold their devices for longer than containers may take to end."""
    if age < SIDECAR_PATIENCE:
        return plan
    return replace(plan, actions=(*plan.actions, *(delete_job(job) for job in _lingering(observed))))


def _sooner(observed: Observed, left: timedelta, *, age: timedelta) -> timedelta:
    wait = SIDECAR_PATIENCE - age
    return min(left, wait) if wait > timedelta() and _lingering(observed) else left


def lifetime(observed: Observed) -> timedelta:
    """How long the children outlive the run: the run's own value, or else the current one of its class."""
    run = observed.run
    if (asked := run.spec.job_retention_seconds) is not None:
        return timedelta(seconds=asked)
    named = (view.spec for view in observed.classes if view.name == run.status.class_name)
    spec = next(named, None)
    return timedelta(seconds=spec.job_retention_seconds if spec is not None else DEFAULT_RETENTION_SECONDS)


def surplus(observed: Observed) -> tuple[Action, ...]:
    """Delete Jobs of failed attempts beyond the history limit; status keeps their records."""
    resolved = observed.resolved
    limit = resolved.class_spec.failed_jobs_history_limit if resolved is not None else DEFAULT_HISTORY_LIMIT
    attempts = observed.run.status.attempts
    newest = {attempt.stage: attempt.number for attempt in attempts}
    kept = {
        (attempt.stage, attempt.number) for attempt in attempts if attempt.reason in (None, ExitCode.Succeeded.name)
    }
    # The record of an older Job may have been removed; a newer one has none yet.
    recorded = [job for job in observed.jobs if job.over and job.attempt <= newest.get(job.stage, 0)]
    ended = [job for job in recorded if (job.stage, job.attempt) not in kept]
    newest_first = sorted(ended, key=lambda job: (job.created, job.attempt), reverse=True)
    return tuple(delete_job(job) for job in newest_first[limit:] if not job.deleting)


def stop_live(jobs: tuple[JobView, ...]) -> tuple[Action, ...]:
    """Delete the Jobs whose pods run or may still run."""
    return tuple(delete_job(job) for job in jobs if not job.over and not job.deleting)


def delete_job(job: JobView) -> Delete:
    """Delete exactly this Job, not a later one with the same name."""
    return Delete(kind="Job", name=job.name, uid=job.uid)
