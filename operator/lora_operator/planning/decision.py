"""Makes the plan for one run: actions, the whole new status, and when to reconcile again.

Level-based: the plan depends on the observed state, never on past events. A lost event or a crash between any two steps
costs only time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from lora_trainer.contract.layout import work_uri
from lora_trainer.contract.outcome import PrepareResult, TrainResult

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import LoraFineTuneStatus, Work
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage
from lora_operator.planning.attempts import StageState, stage_state, trimmed
from lora_operator.planning.cleanup import after_the_end, surplus
from lora_operator.planning.completion import complete, fail, prepared, trained
from lora_operator.planning.disruptions import counted
from lora_operator.planning.failure import adjustments
from lora_operator.planning.gates import Block, accept, too_many_steps
from lora_operator.planning.observed import Observed
from lora_operator.planning.plan import Plan
from lora_operator.planning.plan_builder import PlanBuilder
from lora_operator.planning.settings import settings
from lora_operator.planning.stages import advance_stage
from lora_operator.planning.status import ReadyState, RunPhase, StatusDraft
from lora_operator.planning.totals import usage, with_more


def make_plan(observed: Observed, now: datetime) -> Plan:
    """The plan for one run. `now` is aware and has whole seconds."""
    run = observed.run
    if run.deleting:
        return Plan(status=run.status)
    if run.status.terminal:
        return after_the_end(observed, now)
    if not run.status.on_record:
        # The operator has created nothing yet: these Jobs are not attempts of the run.
        observed = replace(observed, jobs=())
    prepare = stage_state(observed, Stage.PREPARE, now=now)
    train = stage_state(observed, Stage.TRAIN, now=now)
    draft = StatusDraft(status=run.status, generation=run.generation, now=now)
    builder = PlanBuilder(observed=observed, draft=draft, ended=(*prepare.ended, *train.ended))
    builder = _recorded(builder, prepare, train)
    plan = _advance(builder, prepare, train)
    return replace(plan, actions=(*plan.actions, *surplus(observed)))


def _recorded(builder: PlanBuilder, prepare: StageState, train: StageState) -> PlanBuilder:
    """The plan with the records of all attempts, and what follows from them."""
    before = builder.run.status
    attempts = (*prepare.attempts, *train.attempts)
    kept, removed = trimmed(attempts)
    return builder.update(
        attempts=kept,
        removed_attempts=with_more(before.removed_attempts, removed),
        resumptions=_resumptions(before, train),
        disruptions=counted(before, attempts),
    )


def _resumptions(status: LoraFineTuneStatus, train: StageState) -> int:
    """How often training resumed. Polling counts the resumptions that it sees; an attempt that ended before it was
    polled reports its own in its termination message."""
    return max(status.resumptions, sum(attempt.from_step is not None for attempt in train.attempts))


def _advance(builder: PlanBuilder, prepare: StageState, train: StageState) -> Plan:
    resolved = accept(builder.observed)
    if isinstance(resolved, Block):
        return _blocked(builder, resolved)
    message = f"The spec is valid and resolved against LoraFineTuneClass {resolved.class_name}."
    builder = builder.set(ConditionType.ACCEPTED, True, reason=Reason.ACCEPTED, message=message)
    has_gpus = resolved.class_spec.accelerator.gpu is not None
    builder = builder.update(
        class_name=resolved.class_name, usage=usage(builder.status, builder.run.spec, has_gpus=has_gpus)
    )
    if builder.observed.begun and builder.status.resolved_digest is None:
        # An earlier version of the operator started the run without this record.
        builder = builder.update(resolved_digest=resolved.digest)
    if builder.status.settings is None:
        builder = builder.update(settings=settings(builder.run, resolved, builder.status.chosen))
    if builder.status.work is None:
        builder = builder.update(work=Work(uri=work_uri(resolved.run_file)))
    if not prepare.succeeded and builder.status.run_digest is None:
        return advance_stage(builder, prepare, resolved)
    if prepare.succeeded and prepare.latest is not None and prepare.latest.outcome is not None:
        result = prepare.latest.outcome.result
        if isinstance(result, PrepareResult):
            builder = prepared(builder, result)
            builder = builder.update(settings=settings(builder.run, resolved, result.chosen))
    builder = builder.update(adjustments=adjustments(train.attempts, builder.status.chosen))
    if builder.status.artifact is not None:
        return complete(builder, Reason.ADAPTER_REUSED)
    if train.succeeded and train.latest is not None and train.latest.outcome is not None:
        outcome = train.latest.outcome
        if isinstance(outcome.result, TrainResult):
            return complete(trained(builder, outcome=outcome, result=outcome.result), Reason.ADAPTER_PUBLISHED)
    if not train.attempts and (message := too_many_steps(builder.status.chosen, resolved)) is not None:
        return fail(builder, reason=Reason.POLICY_VIOLATION, message=message)
    return advance_stage(builder, train, resolved)


def _blocked(builder: PlanBuilder, block: Block) -> Plan:
    builder = builder.set(ConditionType.ACCEPTED, False, reason=block.reason, message=block.message)
    phase = RunPhase.WORKING if block.passes else RunPhase.NEEDS_PERSON
    return builder.end(ReadyState(phase=phase, reason=block.reason, message=block.message))
