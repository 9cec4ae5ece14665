"""Finds why the Job controller could not create a pod, which it reports only in Events.

Lists the Events of a namespace at most once every few seconds, for all Jobs that wait there. Events have no index, so
for each list the API server reads all Events of the namespace.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel, Field

from lora_operator.kube.errors import KubeError
from lora_operator.kube.gateway import EVENTS, Gateway
from lora_operator.kube.optional import readable
from lora_operator.planning.observed import JobView
from lora_operator.planning.pod_problems import POD_PATIENCE

POD_NOT_CREATED = "FailedCreate"
"""Reason of the Job controller's Event."""
MAX_MESSAGE = 1024
"""Longest message of an Event."""

log = logging.getLogger(__name__)


class Involved(BaseModel):
    """The object that an Event is about."""

    uid: str = ""


class Event(BaseModel):
    """What is read of an Event."""

    involved: Involved = Field(alias="involvedObject")
    message: str = ""
    last: str | None = Field(default=None, alias="lastTimestamp")


@dataclass
class Refusals:
    """The latest such Events of each namespace."""

    gateway: Gateway
    _asked: dict[str, datetime] = field(default_factory=dict)
    _messages: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Newest message by namespace and uid of the Job."""

    async def of(self, job: JobView, namespace: str, now: datetime) -> str | None:
        """The Job controller's message, or None where it is not known. No plan needs it: a run continues without it."""
        if not job.lacks_pod or now < job.created + POD_PATIENCE:
            return None
        asked = self._asked.get(namespace)
        if asked is None or abs(now - asked) >= POD_PATIENCE:
            self._asked[namespace] = now  # before the request, so that only one of many workers sends it
            try:
                self._messages[namespace] = await self._ask(namespace)
            except KubeError as problem:
                log.warning("events not listed", extra={"namespace": namespace, "error": str(problem)})
        return self._messages[namespace].get(job.uid)

    async def _ask(self, namespace: str) -> dict[str, str]:
        newest: dict[str, tuple[str, str]] = {}
        async for body in self.gateway.list(EVENTS, namespace, fields=f"reason={POD_NOT_CREATED}"):
            if (event := readable(Event, body)) is not None:
                dated = (event.last or "", event.message[:MAX_MESSAGE])
                newest[event.involved.uid] = max(newest.get(event.involved.uid, ("", "")), dated)
        return {uid: message for uid, (_, message) in newest.items()}
