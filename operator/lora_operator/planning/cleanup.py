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
from lora_operator.planning.status import seen


def after_the_end(observed: Observed, now: datetime) -> Plan:
    """The plan for a run that has ended: start nothing, delete Jobs that still run, and later all children."""
    run = observed.run
    plan = Plan(status=seen(run.status, generation=run.generation), actions=stop_live(observed.jobs))
    if run.status.completion_time is None or not observed.jobs:
        return plan
    left = run.status.completion_time + lifetime(observed) - now
    if left > timedelta():
        return replace(plan, requeue_after=left)
    # Jobs are deleted last: while one exists, a plan that was interrupted is made again.
    others = [Delete(kind="ConfigMap", name=config_map_name(run.name))]
    if any(job.nodes > 1 for job in observed.jobs):
        others.append(Delete(kind="Service", name=service_name(run.name)))
    return replace(plan, actions=(*others, *(delete_job(job) for job in observed.jobs if not job.deleting)))


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
    failed = {
        (attempt.stage, attempt.number)
        for attempt in observed.run.status.attempts
        if attempt.reason not in (None, ExitCode.Succeeded.name)
    }
    ended = [job for job in observed.jobs if job.over and (job.stage, job.attempt) in failed]
    newest_first = sorted(ended, key=lambda job: (job.created, job.attempt), reverse=True)
    return tuple(delete_job(job) for job in newest_first[limit:] if not job.deleting)


def stop_live(jobs: tuple[JobView, ...]) -> tuple[Action, ...]:
    """Delete the Jobs whose pods run or may still run."""
    return tuple(delete_job(job) for job in jobs if not job.over and not job.deleting)


def delete_job(job: JobView) -> Delete:
    """Delete exactly this Job, not a later one with the same name."""
    return Delete(kind="Job", name=job.name, uid=job.uid)
