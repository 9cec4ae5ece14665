"""Plans the next step of a stage (prepare or train) that has not succeeded yet."""

from __future__ import annotations

from datetime import timedelta

from lora_operator.api.conditions import ConditionType, find
from lora_operator.api.lorafinetune import Attempt
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage, job_name
from lora_operator.planning.attempts import StageState, closed, how_it_ended
from lora_operator.planning.cleanup import delete_job
from lora_operator.planning.completion import fail, found
from lora_operator.planning.deadline import TimeLimit, deadline, time_limit
from lora_operator.planning.disruptions import fruitless, last_disruption, needs_person, pause
from lora_operator.planning.failure import GiveUp, Retry, decide, pod_that_explains
from lora_operator.planning.gates import Block, may_create
from lora_operator.planning.holds import Candidate, held_back
from lora_operator.planning.larger_class import larger_class
from lora_operator.planning.observed import JobView, PodView, Refusal
from lora_operator.planning.plan import Action, Create, Plan
from lora_operator.planning.plan_builder import PlanBuilder
from lora_operator.planning.pod_problems import (
    POD_RECHECK,
    PodProblem,
    less_often,
    next_look,
    next_look_at_end,
    overdue,
    problem_of,
    problem_of_child,
)
from lora_operator.planning.progress import fold_progress
from lora_operator.planning.queue_time import patience_left, queue_timeout
from lora_operator.planning.running_time import followed
from lora_operator.planning.status import ReadyState, RunPhase
from lora_operator.planning.stuck import stuck_sentence
from lora_operator.planning.suspended_job import queued
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import ResolvedRun, config_map
from lora_operator.workloads.service import headless_service

UNDISTURBED = (Reason.TRAINING, Reason.PREPARING, Reason.STARTING)
"""States of a run that nothing holds up for the moment."""
STUCK_REMEDY = "Ask the platform team to check the accelerators of its node, then create another LoraFineTune."


def advance_stage(builder: PlanBuilder, state: StageState, resolved: ResolvedRun) -> Plan:
    """The next step of a stage: wait for its Job, stop it, start an attempt, or give up."""
    job = state.job
    if builder.run.spec.suspend:
        return _suspend(builder, state)
    limit = time_limit(builder, resolved)
    end = deadline(builder, state, limit) if limit is not None else None
    if limit is not None and end is not None and builder.now >= end:
        return _overdue(builder, state, limit)
    if job is not None and state.live:
        if job.deleting or state.attempts[-1].reason is not None:
            return _stopping(builder, state, job)
        patience = patience_left(builder.status, resolved, now=builder.now) if job.suspended else None
        if patience is not None and patience <= timedelta():
            return _end_attempt(builder, state, job, reason=Reason.QUEUE_TIMEOUT, sentence=queue_timeout(resolved))
        if (stuck := stuck_sentence(job, builder.observed.polled_of(job))) is not None:
            return _end_attempt(builder, state, job, reason=Reason.NO_PROGRESS, sentence=stuck)
        if _disrupted_in_vain(builder):
            return _end_attempt(builder, state, job, reason=Reason.DISRUPTED, sentence=last_disruption(job))
        ends = [left for left in (None if end is None else end - builder.now, patience) if left is not None]
        return _wait(builder, job, resolved, left=min(ends, default=None))
    if not state.attempts:
        return _start(builder, state, resolved)
    return _after_failure(builder, state, resolved)


def _disrupted_in_vain(builder: PlanBuilder) -> bool:
    """Whether a pod has just replaced a disrupted one, as happened too often before training gained a step."""
    before, now = builder.run.status.disruptions, builder.status.disruptions
    return now is not None and fruitless(now) and now.count > (before.count if before is not None else 0)


def _suspend(builder: PlanBuilder, state: StageState) -> Plan:
    job = state.job
    if job is None or not state.live:
        if builder.observed.orphans:
            return _yield_to(builder, state, builder.observed.orphans[0])
        message = "spec.suspend is true: no pod runs. Set it to false to continue from the last checkpoint."
        builder = builder.not_running(Reason.SUSPENDED_BY_USER, message)
        return builder.end(ReadyState(phase=RunPhase.SUSPENDED, reason=Reason.SUSPENDED_BY_USER, message=message))
    return _end_attempt(builder, state, job, reason=Reason.SUSPENDED_BY_USER, sentence="spec.suspend was set to true.")


def _end_attempt(builder: PlanBuilder, state: StageState, job: JobView, *, reason: Reason, sentence: str) -> Plan:
    """End the newest attempt: close its record now, and delete the Job at the next reconcile.

    With a closed record, the Job's end costs no retry, even if the operator restarts in between and the user resumes
    the run meanwhile."""
    if job.deleting or state.attempts[-1].reason is not None:
        return _stopping(builder, state, job)
    builder, ready_state = _stopping_state(_close(builder, job, reason=reason, sentence=sentence), state, job)
    return builder.end(ready_state, requeue_after=timedelta(), decisive=True)


def _close(builder: PlanBuilder, job: JobView, *, reason: Reason, sentence: str) -> PlanBuilder:
    """The plan with the record of the newest attempt closed by the operator's own decision."""
    *before, newest = builder.status.attempts
    if job.newest_pod is not None:
        newest = followed(newest, job.newest_pod, job)
    return builder.update(attempts=(*before, closed(newest, reason=reason.value, sentence=sentence, end=builder.now)))


def _stopping(builder: PlanBuilder, state: StageState, job: JobView) -> Plan:
    actions = () if job.deleting else (delete_job(job),)
    ended = builder.status.of(state.stage)[-1].end_time
    look = next_look_at_end(job.pods, ended=ended, now=builder.now)
    if (problem := overdue(job.pods, ended=ended, now=builder.now)) is not None:
        ready_state = _ready_state(problem)
        builder = _stage_not_done(builder, state.stage, ready_state)
    else:
        builder, ready_state = _stopping_state(builder, state, job)
    return builder.end(ready_state, actions=actions, requeue_after=look)


def _stopping_state(builder: PlanBuilder, state: StageState, job: JobView) -> tuple[PlanBuilder, ReadyState]:
    """Report that the attempt is being ended, and why."""
    if builder.status.of(state.stage)[-1].reason == Reason.NO_PROGRESS:
        last_one = isinstance(_decide(builder, builder.status.of(state.stage)), GiveUp)
        what_then = "" if last_one else "; the next attempt continues from the last checkpoint"
        reason, message = Reason.NO_PROGRESS, f"{builder.status.attempts[-1].message} The operator ends it{what_then}."
    else:
        reason, message = Reason.STOPPING, f"Job {job.name} is being deleted; its pod writes a checkpoint and ends."
    ready_state = ReadyState(phase=RunPhase.WORKING, reason=reason, message=message)
    return builder.not_running(reason, message), ready_state


def _yield_to(builder: PlanBuilder, state: StageState, pod: PodView) -> Plan:
    """Wait for a pod whose Job is gone: a second pod beside it would write to the same checkpoints."""
    message = f"Pod {pod.name} still runs although its Job was deleted. The run continues when that pod has ended."
    ready_state = ReadyState(phase=RunPhase.WORKING, reason=Reason.STOPPING, message=message)
    if (problem := overdue((pod,), ended=None, now=builder.now)) is not None:
        ready_state = _ready_state(problem)
    builder = _stage_not_done(builder, state.stage, ready_state)
    return builder.end(ready_state, requeue_after=POD_RECHECK, decisive=True)


def _overdue(builder: PlanBuilder, state: StageState, limit: TimeLimit) -> Plan:
    message = f"The run's pods have used the {limit.seconds} s that {limit.place} allows. {limit.remedy}"
    if state.job is not None and state.live:
        # Nothing may run after the run has failed, and a Job that still exists may get another pod.
        return _end_attempt(builder, state, state.job, reason=Reason.DEADLINE_EXCEEDED, sentence=message)
    return fail(builder, reason=Reason.DEADLINE_EXCEEDED, message=message)


def _wait(builder: PlanBuilder, job: JobView, resolved: ResolvedRun, *, left: timedelta | None) -> Plan:
    """Report what the Job's pod does, and look again when the deadline is over."""
    ended = builder.status.of(job.stage)[-1].end_time
    looks = [look for look in (left, next_look(job, ended=ended, now=builder.now)) if look is not None]
    problem = overdue(job.pods, ended=ended, now=builder.now)
    if problem is None and not job.suspended and _controller_is_next(job):
        # The Job controller now ends the Job or replaces the pod. Until then there is nothing to report.
        before = builder.run.status
        if any(pod.beside for pod in job.pods):
            before = before.model_copy(update={"attempts": builder.status.attempts})
        return Plan(status=before, requeue_after=min(looks, default=None))
    ready_state = _waiting_state(builder, job, resolved) if problem is None else _ready_state(problem)
    if ready_state.reason == Reason.TRAINING:
        builder = builder.set(ConditionType.RUNNING, True, reason=ready_state.reason, message=ready_state.message)
        progressed = fold_progress(builder.status, builder.observed.polled_of(job))
        builder = builder.update(
            progress=progressed.progress, attempts=progressed.attempts, resumptions=progressed.resumptions
        )
    else:
        builder = _stage_not_done(builder, job.stage, ready_state)
    disruptions = builder.status.disruptions
    if disruptions is not None and fruitless(disruptions) and ready_state.reason in UNDISTURBED:
        ready_state = needs_person(disruptions, last=f"Attempt {job.attempt} is under way.")
    return builder.end(ready_state, actions=_missing(builder, resolved), requeue_after=min(looks, default=None))


def _controller_is_next(job: JobView) -> bool:
    """Whether a pod has ended, from which the Job controller has not yet drawn its conclusion."""
    pod = job.newest_pod
    return (pod is not None and pod.termination is not None) or pod_that_explains(job.newest_pods) is not None


def _stage_not_done(builder: PlanBuilder, stage: Stage, ready_state: ReadyState) -> PlanBuilder:
    """The plan with the condition of the stage (Prepared or Running) set to False for the reason of Ready."""
    if stage is Stage.PREPARE:
        return builder.set(ConditionType.PREPARED, False, reason=ready_state.reason, message=ready_state.message)
    return builder.not_running(ready_state.reason, ready_state.message)


def _waiting_state(builder: PlanBuilder, job: JobView, resolved: ResolvedRun) -> ReadyState:
    block = may_create(builder.observed, resolved) if builder.observed.lacks_config_map else None
    return _blocked(block) if block is not None else _ready_state_of(job)


def _ready_state_of(job: JobView) -> ReadyState:
    if job.suspended:
        return queued(job)
    if (problem := problem_of(job)) is not None:
        return _ready_state(problem)
    if job.stage is Stage.PREPARE:
        return _preparing()
    if not _at_work(job):
        return _starting(job.name)
    nodes = [str(pod.node) for pod in job.newest_pods]
    message = f"Attempt {job.attempt} trains on node{'s' * (len(nodes) > 1)} {', '.join(nodes)}."
    return ReadyState(phase=RunPhase.WORKING, reason=Reason.TRAINING, message=message)


def _at_work(job: JobView) -> bool:
    return bool(job.pods) and all(pod.started is not None for pod in job.newest_pods)


def _preparing() -> ReadyState:
    message = "The prepare pod reads, checks and tokenises the dataset; the run holds no accelerator yet."
    return ReadyState(phase=RunPhase.WORKING, reason=Reason.PREPARING, message=message)


def _starting(name: str) -> ReadyState:
    return ReadyState(phase=RunPhase.WORKING, reason=Reason.STARTING, message=f"Job {name} waits for its pod to start.")


def _start(builder: PlanBuilder, state: StageState, resolved: ResolvedRun) -> Plan:
    """Create the Job of the next attempt and what it needs: its ConfigMap and, for several pods, their Service."""
    if (held := held_back(Candidate(observed=builder.observed, resolved=resolved))) is not None:
        return _hold_back(builder, state, resolved, held)
    if builder.observed.orphans:
        return _yield_to(builder, state, builder.observed.orphans[0])
    if builder.observed.child_refusal is not None:
        return _refused(builder, state, builder.observed.child_refusal)
    if (block := may_create(builder.observed, resolved)) is not None:
        return _cannot_create(builder, state, block)
    if builder.run.status.resolved_digest != resolved.digest:
        return _record(builder, resolved)
    number = state.next_number
    request = StageRequest(
        run=builder.run,
        resolved=resolved,
        stage=state.stage,
        attempt=number,
        oom_shrinks=len(builder.status.adjustments),
    )
    children = (Create(body=config_map(builder.run, resolved)),)
    if request.nodes > 1:
        children += (Create(body=headless_service(builder.run)),)
    actions = (*children, Create(body=stage_job(request)))
    if state.stage is Stage.PREPARE and not state.attempts:
        # The next plan writes the status. When many runs are applied at once, each gets its Job before the status of
        # any is written.
        return Plan(status=builder.run.status, actions=actions, requeue_after=timedelta(), decisive=True)
    builder = builder.update(attempts=(*builder.status.attempts, Attempt(stage=state.stage, number=number)))
    name = job_name(builder.run.name, state.stage, number)
    ready_state = _preparing() if state.stage is Stage.PREPARE else _starting(name)
    return _stage_not_done(builder, state.stage, ready_state).end(ready_state, actions=actions)


def _record(builder: PlanBuilder, resolved: ResolvedRun) -> Plan:
    """Record what the run is resolved to before anything is created. Whatever exists with other content is then known
    not to be the operator's, even after a crash."""
    status = builder.run.status.model_copy(update={"resolved_digest": resolved.digest})
    # The ConfigMap of an earlier record may exist; only a live read shows it.
    again = builder.run.status.resolved_digest is not None
    return Plan(status=status, requeue_after=timedelta(), decisive=again)


def _cannot_create(builder: PlanBuilder, state: StageState, block: Block) -> Plan:
    """Report why nothing can be created. The operator looks again, less often with time."""
    stalled = find(builder.run.status.conditions, ConditionType.STALLED)
    since = stalled.last_transition_time if stalled is not None and stalled.reason == block.reason else builder.now
    ready_state = _blocked(block)
    look = less_often(since, now=builder.now)
    return _stage_not_done(builder, state.stage, ready_state).end(ready_state, requeue_after=look)


def _blocked(block: Block) -> ReadyState:
    return ReadyState(phase=RunPhase.NEEDS_PERSON, reason=block.reason, message=block.message)


def _hold_back(builder: PlanBuilder, state: StageState, resolved: ResolvedRun, held: ReadyState) -> Plan:
    """Report why the attempt may not start."""
    builder, look = _stage_not_done(builder, state.stage, held), None
    if held.reason == Reason.WAITING_FOR_TURN and builder.observed.line is not None:
        look, left = builder.observed.line.recheck, patience_left(builder.status, resolved, now=builder.now)
        if left is not None and left <= timedelta():
            return fail(builder, reason=Reason.QUEUE_TIMEOUT, message=queue_timeout(resolved))
        look = min(look, left or look)
    return builder.end(held, requeue_after=look)


def _refused(builder: PlanBuilder, state: StageState, refusal: Refusal) -> Plan:
    """Report that the API server refused a child. The operator retries, less often with time."""
    ready_state = _ready_state(problem_of_child(refusal))
    look = less_often(builder.run.created, now=builder.now)
    return _stage_not_done(builder, state.stage, ready_state).end(ready_state, requeue_after=look)


def _ready_state(problem: PodProblem) -> ReadyState:
    phase = RunPhase.NEEDS_PERSON if problem.needs_person else RunPhase.WORKING
    return ReadyState(phase=phase, reason=problem.reason, message=problem.message)


def _missing(builder: PlanBuilder, resolved: ResolvedRun) -> tuple[Action, ...]:
    """Create the ConfigMap again where it was deleted."""
    observed = builder.observed
    there = observed.resolved is not None and not observed.lacks_config_map
    known = builder.run.status.resolved_digest == resolved.digest
    return () if there or observed.taken or not known else (Create(body=config_map(builder.run, resolved)),)


def _after_failure(builder: PlanBuilder, state: StageState, resolved: ResolvedRun) -> Plan:
    last = state.attempts[-1]
    if last.reason == Reason.QUEUE_TIMEOUT:
        return fail(builder, reason=Reason.QUEUE_TIMEOUT, message=how_it_ended(last))
    decision = _decide(builder, state.attempts)
    if isinstance(decision, GiveUp):
        sentence = state.latest.sentence if state.latest is not None else how_it_ended(last)
        builder = found(builder, state)
        remedy = STUCK_REMEDY if last.reason == Reason.NO_PROGRESS else _where_it_fits(builder, state)
        message = " ".join(filter(None, (sentence, decision.because, remedy)))
        return fail(builder, reason=last.reason or Reason.FAILED, message=message)
    if decision.at <= builder.now:
        return _start(builder, state, resolved)
    return _back_off(builder, state, decision)


def _where_it_fits(builder: PlanBuilder, state: StageState) -> str:
    outcome = state.latest.outcome if state.latest is not None else None
    if outcome is None or outcome.needed_memory_gib is None:
        return ""
    return larger_class(outcome.needed_memory_gib, builder.observed.classes)


def _decide(builder: PlanBuilder, attempts: tuple[Attempt, ...]) -> Retry | GiveUp:
    chosen = builder.status.chosen
    return decide(
        attempts,
        retry_limit=builder.run.spec.retry_limit,
        micro_batch=chosen.per_device_train_batch_size if chosen is not None else None,
        pause=pause(builder.status.disruptions),
        now=builder.now,
    )


def _back_off(builder: PlanBuilder, state: StageState, decision: Retry) -> Plan:
    last = state.attempts[-1]
    message = (
        f"{state.stage.capitalize()} attempt {last.number} failed. {how_it_ended(last)} "
        f"Next attempt: {decision.at:%H:%M:%S} UTC."
    )
    ready_state = ReadyState(phase=RunPhase.WORKING, reason=Reason.BACKING_OFF, message=message)
    disruptions = builder.status.disruptions
    if disruptions is not None and fruitless(disruptions):
        ready_state = needs_person(disruptions, last=message)
    return _stage_not_done(builder, state.stage, ready_state).end(ready_state, requeue_after=decision.at - builder.now)
