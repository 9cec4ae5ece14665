"""Writes the results of stages into status, and ends a run as complete or failed."""

from __future__ import annotations

from lora_trainer.contract.outcome import BAD_ROW, Evaluation, Outcome, PrepareResult, TrainResult

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import Usage
from lora_operator.api.reasons import Reason
from lora_operator.planning.attempts import StageState
from lora_operator.planning.cleanup import lifetime, stop_live
from lora_operator.planning.plan import Plan
from lora_operator.planning.plan_builder import PlanBuilder
from lora_operator.planning.progress import reported
from lora_operator.planning.status import ReadyState, RunPhase

HOW = {
    Reason.ADAPTER_PUBLISHED: "was published and verified: it loads and changes the model's output",
    Reason.ADAPTER_REUSED: "was already published by an identical run; nothing was trained",
}


def prepared(builder: PlanBuilder, result: PrepareResult) -> PlanBuilder:
    """The plan with the results of prepare in status."""
    rows = result.dataset
    message = (
        f"{rows.kept} of {rows.rows} rows are tokenised for training and {rows.held_out} are held out. Predicted peak "
        f"memory: {result.estimate.memory_gib:.1f} GiB."
    )
    if bad := sum(each.rows for each in rows.dropped if each.reason == BAD_ROW):
        listed = rows.report or "data-report.json"
        message += f" {bad} unusable rows are left out; {listed} lists them."
    if rows.unused:
        named = ", ".join(f"{each.name} ({each.rows} rows)" for each in rows.unused)
        message += f" These columns and keys of the rows change nothing of what is trained: {named}."
    builder = builder.set(ConditionType.PREPARED, True, reason=Reason.PREPARED, message=message)
    return builder.update(
        run_digest=result.run_digest,
        dataset=result.dataset,
        model=result.model,
        estimate=result.estimate,
        chosen=result.chosen,
        artifact=result.artifact,
        evaluation=result.evaluation,
    )


def trained(builder: PlanBuilder, *, outcome: Outcome, result: TrainResult) -> PlanBuilder:
    """The plan with the results of training in status."""
    figures = {
        "peak_memory_gib": result.usage.peak_memory_gib,
        "tokens_per_second": result.usage.tokens_per_second,
    }
    usage = (builder.status.usage or Usage()).model_copy(update=figures)
    builder = builder.update(
        artifact=result.artifact, evaluation=result.evaluation, best_step=result.best_step, usage=usage
    )
    progress = builder.status.progress
    if progress is None or outcome.step is None:
        return builder
    done = progress.model_copy(update={"step": outcome.step, "eta_seconds": None})
    return builder.update(progress=reported(done, time=builder.now))


def found(builder: PlanBuilder, state: StageState) -> PlanBuilder:
    """The plan with the results of a stage that failed, such as the figures of an adapter that missed its gate."""
    outcome = state.latest.outcome if state.latest is not None else None
    match outcome.result if outcome is not None else None:
        case PrepareResult() as result:
            return prepared(builder, result)
        case TrainResult() as result:
            assert outcome is not None
            return trained(builder, outcome=outcome, result=result)
        case _:
            return builder


def complete(builder: PlanBuilder, reason: Reason) -> Plan:
    """The run is complete and its adapter works. Raises ValueError without an artifact."""
    artifact, evaluation = builder.status.artifact, builder.status.evaluation
    if artifact is None:
        raise ValueError("a run without an artifact is not complete")
    best_step = builder.status.best_step
    chosen = f" Step {best_step} had the lowest held-out loss." if best_step is not None else ""
    message = f"The adapter at {artifact.uri} {HOW[reason]}.{_improvement(evaluation)}{chosen}{_newer(builder)}"
    builder = builder.not_running(reason, "The run is complete.")
    return builder.end(
        ReadyState(phase=RunPhase.DONE, reason=reason, message=message), requeue_after=lifetime(builder.observed)
    )


def _newer(builder: PlanBuilder) -> str:
    """That the base model has a newer commit than the one that the reused adapter was trained from."""
    model, asked = builder.status.model, builder.run.spec.model
    if model is None or model.newer_revision is None:
        return ""
    means = f"model.revision {asked.revision}" if asked.revision is not None else f"The default branch of {asked.name}"
    return (
        f" It was trained from commit {model.revision}. {means} has moved to {model.newer_revision} since; to train on "
        "that, create another LoraFineTune under another name."
    )


def _improvement(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    figures = (
        ("loss", evaluation.base_loss, evaluation.loss),
        ("reward", evaluation.base_reward, evaluation.reward),
    )
    return "".join(
        f" Held-out {name} {base:.3f} -> {adapter:.3f}."
        for name, base, adapter in figures
        if base is not None and adapter is not None
    )


def fail(builder: PlanBuilder, *, reason: str, message: str) -> Plan:
    """The run has failed, without an adapter or with a rejected one. Jobs that still run are deleted."""
    if builder.status.run_digest is None:
        builder = builder.set(ConditionType.PREPARED, False, reason=reason, message=message)
    builder = builder.not_running(reason, "The run has failed.")
    ready_state = ReadyState(phase=RunPhase.FAILED, reason=reason, message=message)
    return builder.end(ready_state, actions=stop_live(builder.observed.jobs), requeue_after=lifetime(builder.observed))
