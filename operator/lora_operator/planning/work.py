"""Plans the removal of a finished run's work: its prepared rows and checkpoints in the bucket.

A Job in the namespace of the run deletes them. No unfinished run is ever touched: it may still resume. The removal
never changes Ready; status.work and the records of the cleanup attempts show it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lora_trainer.contract.exits import ExitClass
from lora_trainer.contract.outcome import clip

from lora_operator.api.conditions import ConditionType, is_true
from lora_operator.api.lorafinetune import MAX_WORK_MESSAGE, Attempt, Work, WorkState
from lora_operator.naming import Stage
from lora_operator.planning.attempts import StageState, how_it_ended, stage_state, trimmed
from lora_operator.planning.events import failed_attempt
from lora_operator.planning.failure import attempt_class
from lora_operator.planning.observed import JobView, Observed
from lora_operator.planning.plan import Create, Plan
from lora_operator.planning.pod_problems import POD_RECHECK, less_often, next_look, problem_of
from lora_operator.planning.totals import with_more
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import resolve

PAUSES = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=2))
"""Pauses after failed attempts. After as many retries, the operator leaves the work where it is."""
MOST_AT_ONCE = 5
"""Cleanup Jobs of a namespace at the same time: a class that begins to limit the retention may concern thousands of
runs."""
CROWD_RECHECK = timedelta(minutes=1)


def remove_work(observed: Observed, now: datetime) -> Plan:
    """The plan for the work of a run that has ended: keep it, delete it, or record how that went."""
    work = observed.run.status.work
    if work is None or work.state is WorkState.REMOVED:
        return Plan(status=observed.run.status)
    state = stage_state(observed, Stage.CLEANUP, now=now)
    if state.job is not None and state.live:
        return _wait(observed, work, state.job, now)
    if state.succeeded:
        removed = Work(uri=work.uri, state=WorkState.REMOVED, removed_time=state.attempts[-1].end_time or now)
        return _recorded(observed, state, removed)
    start = _next_start(observed, state)
    if start is None:
        return _recorded(observed, state, _told(work, _given_up(state, work) if _exhausted(state) else None))
    if start > now:
        told = _told(work, _failed(state, start) if state.attempts else None)
        return replace(_recorded(observed, state, told), requeue_after=start - now)
    return _start(observed, state, work, now)


def _wait(observed: Observed, work: Work, job: JobView, now: datetime) -> Plan:
    """Wait for the Job, and tell why its pod does not start."""
    return replace(_with_work(observed, _told(work, _waiting(job))), requeue_after=next_look(job, ended=None, now=now))


def _waiting(job: JobView) -> str | None:
    """Why the Job's pod does not start, or None when no cause is known."""
    if job.pod_refusal is not None and job.lacks_pod:
        return _refused(f"the pod of Job {job.name}", job.pod_refusal)
    problem = problem_of(job)
    return problem.message if problem is not None else None


def _start(observed: Observed, state: StageState, work: Work, now: datetime) -> Plan:
    """Create the next cleanup Job, once no pod of the run may write any more and few other cleanups run."""
    run, class_spec = observed.run, observed.current_class
    if observed.child_refusal is not None:
        refused = _refused(observed.child_refusal.child, observed.child_refusal.why)
        since = run.status.completion_time or now
        return replace(_with_work(observed, _told(work, refused)), requeue_after=less_often(since, now=now))
    if observed.taken is not None:
        taken = f"{observed.taken.child} already exists, and the operator did not create it. Delete it."
        return _with_work(observed, _told(work, taken))
    plan = _recorded(observed, state, work)
    if _may_write(observed):
        return replace(plan, requeue_after=POD_RECHECK)
    if class_spec is None or observed.cleanups >= MOST_AT_ONCE:
        return replace(plan, requeue_after=CROWD_RECHECK)
    resolved = resolve(run, class_name=run.status.class_name or "", class_spec=class_spec)
    request = StageRequest(run=run, resolved=resolved, stage=Stage.CLEANUP, attempt=state.next_number)
    return replace(plan, actions=(Create(body=stage_job(request)),), decisive=True)


def _may_write(observed: Observed) -> bool:
    """Whether a pod of the run may still write to its work folder."""
    pods = (pod for job in observed.jobs for pod in job.pods)
    return bool(observed.orphans) or any(not job.over for job in observed.jobs) or any(pod.active for pod in pods)


def _next_start(observed: Observed, state: StageState) -> datetime | None:
    """When the next cleanup Job is due, or None where the work stays."""
    due = _due(observed)
    if due is None or not state.attempts:
        return due
    if _exhausted(state):
        return None
    last = state.attempts[-1]
    interrupted = attempt_class(last) is ExitClass.INTERRUPTED
    pause = timedelta() if interrupted else PAUSES[_failures(state) - 1]
    return max(due, (last.end_time or due) + pause)


def _due(observed: Observed) -> datetime | None:
    """When the work is to be deleted, or None where the class keeps it."""
    status, class_spec = observed.run.status, observed.current_class
    if class_spec is None or status.completion_time is None:
        return None
    retention = class_spec.storage.work_retention
    good = is_true(status.conditions, ConditionType.READY)
    seconds = retention.after_success_seconds if good else retention.after_failure_seconds
    return status.completion_time + timedelta(seconds=seconds) if seconds is not None else None


def _failures(state: StageState) -> int:
    return sum(attempt_class(attempt) is not ExitClass.INTERRUPTED for attempt in state.attempts)


def _exhausted(state: StageState) -> bool:
    return _failures(state) > len(PAUSES)


def _failed(state: StageState, start: datetime) -> str:
    last = state.attempts[-1]
    return f"Cleanup attempt {last.number} failed. {how_it_ended(last)} Next attempt: {start:%H:%M:%S} UTC."


def _given_up(state: StageState, work: Work) -> str:
    times = _failures(state)
    return (
        f"The cleanup failed {times} times, and the operator does not try again. {how_it_ended(state.attempts[-1])} "
        f"Delete prepared/ and checkpoints/ below {work.uri} yourself."
    )


def _refused(what: str, why: str) -> str:
    return f"The API server refuses {what}: {why}. The cleanup continues when it no longer does."


def _told(work: Work, message: str | None) -> Work:
    return work.model_copy(update={"message": clip(message, MAX_WORK_MESSAGE) if message is not None else None})


def _with_work(observed: Observed, work: Work) -> Plan:
    return Plan(status=observed.run.status.model_copy(update={"work": work}))


def _recorded(observed: Observed, state: StageState, work: Work) -> Plan:
    """The plan with this work in status, and with the records of the cleanup attempts that have ended."""
    before: tuple[Attempt, ...] = observed.run.status.attempts
    others = (attempt for attempt in before if attempt.stage is not Stage.CLEANUP)
    kept, removed = trimmed((*others, *state.attempts))
    sums = with_more(observed.run.status.removed_attempts, removed)
    status = observed.run.status.model_copy(update={"work": work, "attempts": kept, "removed_attempts": sums})
    failed = (item for item in state.ended if attempt_class(item.attempt) is not ExitClass.DONE)
    return Plan(status=status, events=tuple(failed_attempt(item) for item in failed), decisive=bool(state.ended))
