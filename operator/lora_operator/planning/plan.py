"""The plan for a run: the result of a decision, which the reconciler carries out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.planning.events import PlannedEvent


@dataclass(frozen=True, kw_only=True)
class Create:
    """Create a child. One that already exists counts as created, if the run owns it and it has the same content."""

    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete a child; one that is gone counts as deleted. A Job is deleted after its pods (foreground)."""

    kind: str
    name: str
    uid: str | None = None
    """Of the object that is meant. None where it was not seen: then the run must own what has that name."""


Action = Create | Delete


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the operator does next about one run."""

    status: LoraFineTuneStatus
    actions: tuple[Action, ...] = ()
    events: tuple[PlannedEvent, ...] = ()
    requeue_after: timedelta | None = None
    decisive: bool = False
    """Whether the plan creates an object, closes an attempt or ends the run. Such a plan must be made from live reads:
    in the cache, a Job may have ended while its pod has not."""

    @property
    def starts_attempt(self) -> bool:
        """Whether it creates a Job."""
        return any(isinstance(action, Create) and action.body["kind"] == "Job" for action in self.actions)
