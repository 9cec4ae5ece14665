"""Counts how often pods of a run were drained, preempted or evicted, and decides when that needs a person.

One disruption costs nothing. Many in a row, between which training gains no step, would go on for ever: the operator
then ends the attempt, pauses before each further one, and says so.
"""

from __future__ import annotations

from datetime import timedelta

from lora_operator.api.lorafinetune import Attempt, Disruptions, LoraFineTuneStatus
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage
from lora_operator.planning.failure import DISRUPTED, back_off
from lora_operator.planning.observed import JobView
from lora_operator.planning.status import ReadyState, RunPhase

PATIENCE = 5
"""So many disruptions in a row without a step gained need a person."""


def counted(before: LoraFineTuneStatus, attempts: tuple[Attempt, ...]) -> Disruptions | None:
    """The count after the attempts have become these."""
    old = before.disruptions
    new = _new(before.attempts, attempts)
    if old is None and not new:
        return None
    furthest = _furthest(attempts)
    gained = old is not None and furthest is not None and (old.step is None or furthest > old.step)
    old = old or Disruptions()
    in_a_row = (0 if gained else old.in_a_row) + new
    return Disruptions(count=old.count + new, in_a_row=in_a_row, step=furthest if new else old.step)


def fruitless(disruptions: Disruptions | None) -> bool:
    """Whether pods are disrupted again and again before training gains a step."""
    return disruptions is not None and disruptions.in_a_row >= PATIENCE


def pause(disruptions: Disruptions | None) -> timedelta:
    """The pause before the attempt that follows a disruption."""
    if disruptions is None or not fruitless(disruptions):
        return timedelta()
    return back_off(disruptions.in_a_row - PATIENCE + 1)


def last_disruption(job: JobView) -> str:
    """A sentence about the newest disruption of a Job's pods, where one of them still tells."""
    told = [pod for pod in job.pods if pod.disrupted and pod.why]
    if not told:
        return f"The pod of Job {job.name} was drained, preempted or evicted."
    newest = max(told, key=lambda pod: pod.created)
    return f"Pod {newest.name} on node {newest.node} was disrupted ({newest.why.rstrip('.')})."


def needs_person(disruptions: Disruptions, *, last: str) -> ReadyState:
    """The state of a run whose pods are disrupted again and again."""
    message = (
        f"{disruptions.in_a_row} pods in a row were drained, preempted or evicted before training gained a step. "
        f"{last} Ask the platform team to check the nodes of the class for memory and disk pressure, and the priority "
        "of its pods. The operator tries again, after pauses of up to 6 minutes."
    )
    return ReadyState(phase=RunPhase.NEEDS_PERSON, reason=Reason.REPEATEDLY_DISRUPTED, message=message)


def _new(before: tuple[Attempt, ...], after: tuple[Attempt, ...]) -> int:
    """Disruptions that the records show and did not show before: a pod was replaced, or an attempt ended by one."""
    known = {(attempt.stage, attempt.number): attempt for attempt in before}
    return sum(_is_new(known.get((attempt.stage, attempt.number)), attempt) for attempt in after)


def _is_new(before: Attempt | None, after: Attempt) -> bool:
    if before is not None and before.reason is not None:
        return False
    replaced = before is not None and before.start_time is not None and before.start_time != after.start_time
    return replaced or after.reason in DISRUPTED


def _furthest(attempts: tuple[Attempt, ...]) -> int | None:
    """The furthest step that training is known to have reached; None before there is a train attempt."""
    return max((attempt.to_step or 0 for attempt in attempts if attempt.stage is Stage.TRAIN), default=None)
