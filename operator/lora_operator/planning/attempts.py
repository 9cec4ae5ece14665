"""Builds the records in status.attempts from Jobs and pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lora_trainer.contract import exits
from lora_trainer.contract.exits import SIGNALLED, ExitCode
from lora_trainer.contract.outcome import Outcome, clip, decode_outcome

from lora_operator.api.lorafinetune import MAX_ATTEMPT_MESSAGE, Attempt
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage
from lora_operator.planning.failure import Explanation, attempt_class, exceeded_limit, explanation, pod_that_explains
from lora_operator.planning.observed import JobView, Observed, PodView, Termination
from lora_operator.planning.running_time import ended_at, followed, halted, still_running

MAX_ATTEMPTS = 48
INTERRUPTIONS = (Reason.SUSPENDED_BY_USER, Reason.DISRUPTED, Reason.RESULT_LOST, ExitCode.Interrupted.name)


@dataclass(frozen=True, kw_only=True)
class EndedAttempt:
    """An attempt that ended, but whose end is not in status yet."""

    attempt: Attempt
    sentence: str
    """How it ended, for people."""
    outcome: Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class StageState:
    """State of one stage: the Job of the newest attempt, if it exists, and the records of all attempts."""

    stage: Stage
    job: JobView | None
    """The Job of the newest attempt, while it exists."""
    attempts: tuple[Attempt, ...]
    ended: tuple[EndedAttempt, ...] = ()

    @property
    def live(self) -> bool:
        """Whether a pod of the newest attempt works or may yet work."""
        return self.job is not None and not self.job.over

    @property
    def succeeded(self) -> bool:
        """Whether the newest attempt did what it should."""
        return bool(self.attempts) and self.attempts[-1].reason == ExitCode.Succeeded.name

    @property
    def latest(self) -> EndedAttempt | None:
        """How the newest attempt ended, where that is not recorded yet."""
        return next((ended for ended in self.ended if ended.attempt == self.attempts[-1]), None)

    @property
    def next_number(self) -> int:
        """Number of the attempt that would come next."""
        return self.attempts[-1].number + 1 if self.attempts else 1


def stage_state(observed: Observed, stage: Stage, *, now: datetime) -> StageState:
    """Fold the Jobs of a stage into its records."""
    jobs = {job.attempt: job for job in observed.of(stage)}
    suspended = observed.run.spec.suspend
    folded = tuple(
        _fold(record, jobs.get(record.number), suspended=suspended, now=now)
        for record in _with_unrecorded(observed.run.status.of(stage), jobs)
    )
    attempts = tuple(entry.attempt if isinstance(entry, EndedAttempt) else entry for entry in folded)
    return StageState(
        stage=stage,
        job=jobs.get(attempts[-1].number) if attempts else None,
        attempts=attempts,
        ended=tuple(entry for entry in folded if isinstance(entry, EndedAttempt)),
    )


def trimmed(attempts: tuple[Attempt, ...]) -> tuple[tuple[Attempt, ...], tuple[Attempt, ...]]:
    """At most MAX_ATTEMPTS records that stay, and those that must go. Interrupted attempts go first: they do not count
    against any limit, and the others are always fewer than that."""
    kept, removed = list(attempts), []
    while len(kept) > MAX_ATTEMPTS:
        removed.append(next((a for a in kept[:-1] if a.reason in INTERRUPTIONS), kept[0]))
        kept.remove(removed[-1])
    return tuple(kept), tuple(removed)


def closed(record: Attempt, *, reason: str, sentence: str, end: datetime, **found: object) -> Attempt:
    """The record of an attempt that is over. `found` are fields that became known with its end."""
    # Start and end may come from different clocks: the operator's own may be behind that of the control plane.
    end = max(end, record.start_time or end)
    record = halted(record, end).model_copy(update={"reason": reason, "end_time": end, **found})
    return record.model_copy(
        update={
            "exit_class": attempt_class(record),
            "message": None if reason == ExitCode.Succeeded.name else clip(sentence, MAX_ATTEMPT_MESSAGE),
        }
    )


def how_it_ended(attempt: Attempt) -> str:
    """How the attempt ended, as a sentence. Records of earlier operators may have no message."""
    return attempt.message or f"It ended with {attempt.reason}."


def _with_unrecorded(records: tuple[Attempt, ...], jobs: Mapping[int, JobView]) -> tuple[Attempt, ...]:
    """Add records for Jobs that have none, because the operator stopped between creating the Job and writing status.
    Records of older Jobs were removed."""
    newest = records[-1].number if records else 0
    unrecorded = (Attempt(stage=job.stage, number=job.attempt) for job in jobs.values() if job.attempt > newest)
    return (*records, *sorted(unrecorded, key=lambda record: record.number))


def _fold(record: Attempt, job: JobView | None, *, suspended: bool, now: datetime) -> Attempt | EndedAttempt:
    if record.reason is not None:
        return record
    if job is None:
        reason = Reason.SUSPENDED_BY_USER if suspended else Reason.JOB_DELETED
        sentence = f"The Job of {record.stage} attempt {record.number} was deleted."
        return EndedAttempt(attempt=closed(record, reason=reason.value, sentence=sentence, end=now), sentence=sentence)
    if not job.over:
        return still_running(record, job, now=now)
    if job.result_lost:
        return _result_lost(record, job, now=now)
    pod = job.success or pod_that_explains(job.newest_pods)
    if job.disrupted and job.success is None and not _explains(pod):
        return _disrupted(record, job, now=now)
    if pod is None or pod.termination is None:
        return _without_termination(record, job, now=now)
    return _ended(record, job, pod, pod.termination, now=now)


def _without_termination(record: Attempt, job: JobView, *, now: datetime) -> EndedAttempt:
    """No container of the attempt reports how it ended: its pod is gone, or the kubelet never started it."""
    pod = next((pod for pod in job.newest_pods if pod.over and pod.why), None)
    if pod is None:
        reason = Reason.POD_LOST
        sentence = f"The pod of Job {job.name} is gone without a termination message. {job.finish_message}".rstrip()
    elif pod.disrupted:
        reason = Reason.POD_LOST
        sentence = f"Pod {pod.name} was disrupted before its container ran. {pod.why}"
    else:
        reason = Reason.POD_REJECTED
        sentence = f"The kubelet of node {pod.node} did not run pod {pod.name}. {pod.why}"
    ended = closed(_followed(record, job), reason=reason.value, sentence=sentence, end=now)
    return EndedAttempt(attempt=ended, sentence=sentence)


def _result_lost(record: Attempt, job: JobView, *, now: datetime) -> EndedAttempt:
    sentence = f"Job {job.name} completed, and its pod was removed before the operator read the result."
    ended = closed(_followed(record, job), reason=Reason.RESULT_LOST.value, sentence=sentence, end=_end(job, now))
    return EndedAttempt(attempt=ended, sentence=sentence)


def _explains(pod: PodView | None) -> bool:
    """Whether the end of this pod explains more than the disruption that the Job reports. The Job controller deletes
    pods that it stops, so the pods that are left ended before."""
    return (
        pod is not None and pod.termination is not None and explanation(pod, pod.termination) < Explanation.INTERRUPTED
    )


def _disrupted(record: Attempt, job: JobView, *, now: datetime) -> EndedAttempt:
    """The attempt ended by a disruption. The disrupted pod may be gone with its termination message, and the other pods
    report only the consequence."""
    sentence = f"A pod of Job {job.name} was disrupted, so all its pods ended. {job.finish_message}".rstrip()
    ended = closed(_followed(record, job), reason=Reason.DISRUPTED.value, sentence=sentence, end=_end(job, now))
    return EndedAttempt(attempt=ended, sentence=sentence)


def _followed(record: Attempt, job: JobView) -> Attempt:
    return followed(record, job.newest_pod, job) if job.newest_pod is not None else record


def _end(job: JobView, now: datetime) -> datetime:
    """When the last of the Job's pods ended."""
    ends = (ended_at(pod, now=now) for pod in job.newest_pods)
    return max((end for end in ends if end is not None), default=now)


def _ended(record: Attempt, job: JobView, pod: PodView, termination: Termination, *, now: datetime) -> EndedAttempt:
    outcome = decode_outcome(termination.text)
    reason, sentence = _reason_and_sentence(record.stage, pod, termination, outcome)
    if job.nodes > 1 and explanation(pod, termination) is Explanation.DISRUPTED:
        reason, sentence = Reason.DISRUPTED.value, f"Pod {pod.name} on node {pod.node} was disrupted. {sentence}"
    elif pod.index > 0 and pod.name not in sentence:
        sentence = f"Pod {pod.name} on node {pod.node}: {sentence}"
    ended = closed(
        _followed(record, job),
        reason=reason,
        sentence=sentence,
        end=_end(job, now),
        exit_code=termination.exit_code,
        from_step=outcome.from_step if outcome and outcome.from_step is not None else record.from_step,
        to_step=outcome.step if outcome and outcome.step is not None else record.to_step,
    )
    return EndedAttempt(attempt=ended, sentence=sentence, outcome=outcome)


def _reason_and_sentence(
    stage: Stage, pod: PodView, termination: Termination, outcome: Outcome | None
) -> tuple[str, str]:
    if (limit := exceeded_limit(pod, termination)) is not None:
        return limit.value, _beyond_limit(pod, limit)
    result = outcome.result if outcome is not None else None
    if termination.exit_code == ExitCode.Succeeded and (result is None or result.stage != stage):
        sentence = f"Pod {pod.name} exited with code 0 but left no readable result. Check the pod's log."
        return Reason.OUTCOME_MISSING.value, sentence
    if outcome is not None:
        return outcome.reason, " ".join(filter(None, (outcome.message, outcome.remedy)))
    return exits.reason(termination.exit_code), _silent_end(pod, termination.exit_code)


def _beyond_limit(pod: PodView, limit: Reason) -> str:
    if limit is Reason.OUT_OF_EPHEMERAL_STORAGE:
        return (
            f"Pod {pod.name} was evicted because it exceeded its own limit. {pod.message.strip()} Ask the platform "
            "team for a class with more scratch for this stage, or remove formats from output.exports."
        )
    return (
        f"Pod {pod.name} was killed because it exceeded its host memory limit. Ask the platform team for a class "
        "with more memory for this stage, or lower model.maxSeqLength or training.perDeviceTrainBatchSize."
    )


def _silent_end(pod: PodView, code: int) -> str:
    if pod.why:
        return f"Pod {pod.name} on node {pod.node} was ended by Kubernetes. {pod.why}"
    if code > SIGNALLED:
        return (
            f"Pod {pod.name} on node {pod.node} was killed by signal {code - SIGNALLED} without a termination message: "
            "it stopped answering the liveness probe, the node shut down or failed, or another process killed it."
        )
    return f"Pod {pod.name} exited with code {code} and without a termination message. Check the pod's log."
