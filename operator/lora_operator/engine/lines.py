"""Finds where a run stands in the line of its namespace and class, from the cache and from what is being started."""

from __future__ import annotations

from dataclasses import dataclass

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.reasons import Reason
from lora_operator.engine.cache import Cache, Hold, RunRecord
from lora_operator.planning.gates import Block, class_of, resolve_class
from lora_operator.planning.line import Line, RunInLine, line_of

HELD_BACK = (Reason.SUSPENDED_BY_USER, Reason.WAITING_FOR_TURN, Reason.CLASS_PAUSED, Reason.OPERATOR_PAUSED)
"""Reasons of Ready of a run that has no place, even if it has begun."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The lines of all namespaces and classes."""

    cache: Cache

    def line(self, run: LoraFineTune) -> Line | None:
        """The line that the run stands in; None where its class sets no limit to active runs."""
        classes = self.cache.classes.values()
        chosen, record = class_of(run, classes), self.cache.runs.get((run.namespace, run.name))
        if isinstance(chosen, Block) or chosen.spec is None or record is None:
            return None
        if chosen.spec.limits.active_runs_per_namespace is None:
            return None
        standing = self._standing(record, starting=False)
        if standing.active:
            return line_of(standing, ())  # it waits for no other run
        default = resolve_class(None, classes)
        default_name = None if isinstance(default, Block) else default.name
        others = (
            other
            for other in self.cache.runs.values()
            if other.key[0] == run.namespace
            and other.uid != run.uid
            and not other.terminal
            and (other.class_name or other.asked_class or default_name) == chosen.name
        )
        return line_of(standing, (self._standing(other) for other in others))

    def _standing(self, record: RunRecord, *, starting: bool = True) -> RunInLine:
        jobs = self.cache.jobs.of(record.id)
        at_work = any(not job.over for job in jobs) or (starting and record.uid in self.cache.starting)
        between_attempts = (record.hold is Hold.FIRM or bool(jobs)) and not (
            record.deleting or record.stalled or record.ready_reason in HELD_BACK
        )
        return RunInLine(
            uid=record.uid,
            created=record.created,
            active=at_work or between_attempts,
            waits=record.ready_reason == Reason.WAITING_FOR_TURN and not record.deleting,
        )
