"""Drafts the plan for a run step by step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lora_operator.api.conditions import ConditionType
from lora_operator.api.lorafinetune import LoraFineTune, LoraFineTuneStatus
from lora_operator.naming import Stage
from lora_operator.planning.attempts import EndedAttempt
from lora_operator.planning.events import failed_attempts, milestones, transition
from lora_operator.planning.observed import Observed
from lora_operator.planning.plan import Action, Create, Plan
from lora_operator.planning.queue_time import with_queue_time
from lora_operator.planning.status import ReadyState, RunPhase, StatusDraft, conclude


@dataclass(frozen=True, kw_only=True)
class PlanBuilder:
    """A draft of a plan. Each step returns a new builder; `end` returns the plan."""

    observed: Observed
    draft: StatusDraft
    ended: tuple[EndedAttempt, ...] = ()

    @property
    def run(self) -> LoraFineTune:
        """The run that is planned for."""
        return self.observed.run

    @property
    def now(self) -> datetime:
        """The time for which the plan is made."""
        return self.draft.now

    @property
    def status(self) -> LoraFineTuneStatus:
        """The status as drafted so far."""
        return self.draft.status

    def set(self, kind: ConditionType, status: bool | None, *, reason: str, message: str) -> PlanBuilder:
        """The plan with this condition drafted."""
        return replace(self, draft=self.draft.set(kind, status, reason=reason, message=message))

    def update(self, **fields: object) -> PlanBuilder:
        """The plan with these fields of the status drafted."""
        return replace(self, draft=self.draft.update(**fields))

    def not_running(self, reason: str, message: str) -> PlanBuilder:
        """The plan with Running set to False. The condition exists only once there is a train Job."""
        if not self.status.of(Stage.TRAIN):
            return self
        return self.set(ConditionType.RUNNING, False, reason=reason, message=message)

    def end(
        self,
        ready_state: ReadyState,
        *,
        actions: Iterable[Action] = (),
        requeue_after: timedelta | None = None,
        decisive: bool = False,
    ) -> Plan:
        """The finished plan. What creates, closes what ended, or ends the run is decisive in any case."""
        todo = tuple(actions)
        before, after = self.run.status, conclude(self.draft, ready_state)
        after = with_queue_time(after, ready_state.reason, now=self.now)
        finished = ready_state.phase in (RunPhase.DONE, RunPhase.FAILED)
        return Plan(
            status=after,
            actions=todo,
            events=(
                *failed_attempts(self.ended, ready_state),
                *milestones(before, after),
                *transition(before, ready_state),
            ),
            requeue_after=requeue_after,
            decisive=decisive or finished or bool(self.ended) or any(isinstance(action, Create) for action in todo),
        )
