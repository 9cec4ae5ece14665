"""What to do about one run: from what is observed to actions, the whole new status, and when to look again.

Level-based: the plan depends on what is, never on what happened, so a lost event or a crash between any two steps costs
nothing but time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from lora_trainer.contract.outcome import PrepareResult, TrainResult

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage
from lora_operator.planning.attempts import StageState, records, stage_state
from lora_operator.planning.endings import complete, fail, prepared, trained
from lora_operator.planning.failure import adjustments
from lora_operator.planning.gates import Block, accept, too_many_steps
from lora_operator.planning.housekeeping import after_the_end, surplus
from lora_operator.planning.observed import Observed
from lora_operator.planning.settings import settings
from lora_operator.planning.stages import advance_stage
from lora_operator.planning.status import ReadyState, RunPhase, StatusDraft
from lora_operator.planning.turn import Plan, Turn


def make_plan(observed: Observed, now: datetime) -> Plan:
    """The plan for one run. `now` is aware and has whole seconds."""
    run = observed.run
    if run.deleting:
        return Plan(status=run.status)
    if run.status.terminal:
        return after_the_end(observed, now)
    prepare = stage_state(observed, Stage.PREPARE, now=now)
    train = stage_state(observed, Stage.TRAIN, now=now)
    draft = StatusDraft(status=run.status, generation=run.generation, now=now)
    turn = Turn(observed=observed, draft=draft, ended=(*prepare.ended, *train.ended))
    turn = turn.update(attempts=records(prepare, train), resumptions=_resumptions(run.status, train))
    plan = _advance(turn, prepare, train)
    return replace(plan, actions=(*plan.actions, *surplus(observed)))


def _resumptions(status: LoraFineTuneStatus, train: StageState) -> int:
    """Polling counts the resumptions that it sees; an attempt that was over too soon says so in its termination
    message."""
    return max(status.resumptions, sum(attempt.from_step is not None for attempt in train.attempts))


def _advance(turn: Turn, prepare: StageState, train: StageState) -> Plan:
    resolved = accept(turn.observed)
    if isinstance(resolved, Block):
        return _blocked(turn, resolved)
    message = f"The spec is valid and resolved against LoraFineTuneClass {resolved.class_name}."
    turn = turn.set(ConditionType.ACCEPTED, True, reason=Reason.ACCEPTED, message=message)
    turn = turn.update(class_name=resolved.class_name)
    if turn.status.settings is None:
        turn = turn.update(settings=settings(turn.run, resolved, turn.status.chosen))
    if not prepare.succeeded and turn.status.run_digest is None:
        return advance_stage(turn, prepare, resolved)
    if prepare.succeeded and prepare.latest is not None and prepare.latest.outcome is not None:
        result = prepare.latest.outcome.result
        turn = prepared(turn, result) if isinstance(result, PrepareResult) else turn
    if turn.status.chosen is not None and not (turn.status.settings and turn.status.settings.chosen):
        turn = turn.update(settings=settings(turn.run, resolved, turn.status.chosen))
    turn = turn.update(adjustments=adjustments(train.attempts, turn.status.chosen))
    if turn.status.artifact is not None:
        return complete(turn, Reason.ADAPTER_REUSED)
    if train.succeeded and train.latest is not None and train.latest.outcome is not None:
        outcome = train.latest.outcome
        if isinstance(outcome.result, TrainResult):
            return complete(trained(turn, train, outcome=outcome, result=outcome.result), Reason.ADAPTER_PUBLISHED)
    if not train.attempts and (message := too_many_steps(turn.status.chosen, resolved)) is not None:
        return fail(turn, reason=Reason.POLICY_VIOLATION, message=message)
    return advance_stage(turn, train, resolved)


def _blocked(turn: Turn, block: Block) -> Plan:
    turn = turn.set(ConditionType.ACCEPTED, False, reason=block.reason, message=block.message)
    phase = RunPhase.WORKING if block.passes else RunPhase.NEEDS_PERSON
    return turn.end(ReadyState(phase=phase, reason=block.reason, message=block.message))
