"""Deletes what a run no longer needs: Jobs of old failed attempts, and, some time after the end, all children and the
work in the bucket. The run itself and its status stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lora_trainer.contract.exits import ExitCode

from lora_operator.api.lorafinetuneclass import DEFAULT_HISTORY_LIMIT, DEFAULT_RETENTION_SECONDS
from lora_operator.naming import Stage, config_map_name, service_name
from lora_operator.planning.observed import JobView, Observed
from lora_operator.planning.plan import Action, Create, Delete, Plan
from lora_operator.planning.pod_problems import SIDECAR_PATIENCE
from lora_operator.planning.status import seen
from lora_operator.planning.work import remove_work


def after_the_end(observed: Observed, now: datetime) -> Plan:
    """The plan for a run that has ended: start nothing, delete Jobs that still run, and later all children."""
    run = observed.run
    plan = remove_work(observed, now)
    status = seen(plan.status, generation=run.generation)
    plan = replace(plan, status=status, actions=(*plan.actions, *stop_live(observed.jobs)))
    if status.completion_time is None or not observed.jobs:
        return plan
    ends = (attempt.end_time for attempt in status.of(Stage.CLEANUP) if attempt.end_time is not None)
    left = max((status.completion_time, *ends)) + lifetime(observed) - now
    if left > timedelta():
        age = now - status.completion_time
        look = min(_sooner(observed, left, age=age), plan.requeue_after or left)
        return replace(_end_lingering(observed, plan, age=age), requeue_after=look)
    ended = tuple(job for job in observed.jobs if job.over or job.stage is not Stage.CLEANUP)
    if not ended:
        return plan
    # Jobs are deleted last: while one exists, a plan that was interrupted is made again.
    others = [Delete(kind="ConfigMap", name=config_map_name(run.name, run.uid))]
    if any(job.nodes > 1 for job in observed.jobs):
        others.append(Delete(kind="Service", name=service_name(run.name)))
    deleted = (delete_job(job) for job in ended if not job.deleting)
    return replace(plan, actions=(*others, *deleted, *(each for each in plan.actions if isinstance(each, Create))))


def _lingering(observed: Observed) -> tuple[JobView, ...]:
    """Jobs of prepare and train that did what they should and yet do not end, because another container keeps their pod
    running."""
    worked = (job for job in observed.jobs if job.stage is not Stage.CLEANUP)
    return tuple(job for job in worked if job.over and job.finished is None and not job.deleting)


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
    spec = observed.current_class
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
    """Delete the Jobs of prepare and train whose pods run or may still run."""
    live = (job for job in jobs if not job.over and not job.deleting)
    return tuple(delete_job(job) for job in live if job.stage is not Stage.CLEANUP)


def delete_job(job: JobView) -> Delete:
    """Delete exactly this Job, not a later one with the same name."""
    return Delete(kind="Job", name=job.name, uid=job.uid)
