"""Writes a pod's answer to GET /progress into status.progress, at a rate that spares the API server."""

from __future__ import annotations

from datetime import datetime, timedelta

from lora_trainer.contract.progress import Progress

from lora_operator.api.lorafinetune import LoraFineTuneStatus, ReportedProgress
from lora_operator.naming import Stage
from lora_operator.planning.observed import PolledProgress

WRITE_INTERVAL = timedelta(seconds=10)


def fold_progress(status: LoraFineTuneStatus, polled: PolledProgress | None) -> LoraFineTuneStatus:
    """The status with newer progress, at most once per WRITE_INTERVAL."""
    if polled is None:
        return status
    before = status.progress
    if before is not None and polled.time - before.last_update_time < WRITE_INTERVAL:
        return status
    noted = _note_in_record(status, polled.progress)
    if before is not None and before == reported(polled.progress, time=before.last_update_time):
        return noted
    return noted.model_copy(update={"progress": reported(polled.progress, time=polled.time)})


def reported(progress: Progress, *, time: datetime) -> ReportedProgress:
    """Progress with the short forms that `kubectl get` prints."""
    steps = f"{progress.step}/{progress.total_steps}" if progress.total_steps else None
    eta = short_duration(progress.eta_seconds) if progress.eta_seconds is not None else None
    fields = {name: getattr(progress, name) for name in Progress.model_fields}
    fields["loss"] = round(progress.loss, 4) if progress.loss is not None else None
    return ReportedProgress(**fields, steps=steps, eta=eta, last_update_time=time)


def short_duration(seconds: int) -> str:
    """42s, 14m, 3h, 2d: one unit, as kubectl prints ages."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _note_in_record(status: LoraFineTuneStatus, progress: Progress) -> LoraFineTuneStatus:
    """Record the step reached, in case the pod leaves no termination message, and resumptions: a pod that started at
    another step than the record has resumed from a checkpoint."""
    attempts, begun_at = status.attempts, progress.resumed_from_step
    if not attempts or attempts[-1].stage is not Stage.TRAIN:
        return status
    resumed = begun_at is not None and attempts[-1].from_step != begun_at
    record = attempts[-1].model_copy(
        update={"to_step": progress.step or attempts[-1].to_step} | ({"from_step": begun_at} if resumed else {})
    )
    return status.model_copy(update={"attempts": (*attempts[:-1], record), "resumptions": status.resumptions + resumed})
