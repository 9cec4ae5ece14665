"""Finds why the Job controller could not create a pod, which it reports only in Events.

Lists the Events of a namespace at most once every few seconds, for all Jobs that wait there. Events have no index, so
for each list the API server reads all Events of the namespace.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from lora_operator.kube.gateway import EVENTS, Gateway
from lora_operator.planning.observed import JobView
from lora_operator.planning.pod_problems import POD_PATIENCE

POD_NOT_CREATED = "FailedCreate"
"""Reason of the Job controller's Event."""


@dataclass
class Refusals:
    """The latest such Events of each namespace."""

    gateway: Gateway
    _asked: dict[str, datetime] = field(default_factory=dict)
    _messages: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Newest message by namespace and uid of the Job."""

    async def of(self, job: JobView, namespace: str, now: datetime) -> str | None:
        """The Job controller's message, or None. Raises KubeError."""
        if not job.lacks_pod or now < job.created + POD_PATIENCE:
            return None
        asked = self._asked.get(namespace)
        if asked is None or abs(now - asked) >= POD_PATIENCE:
            self._asked[namespace] = now  # before the request, so that only one of many workers sends it
            self._messages[namespace] = await self._ask(namespace)
        return self._messages[namespace].get(job.uid)

    async def _ask(self, namespace: str) -> dict[str, str]:
        newest: dict[str, tuple[str, str]] = {}
        async for event in self.gateway.list(EVENTS, namespace, fields=f"reason={POD_NOT_CREATED}"):
            uid, dated = event["involvedObject"].get("uid", ""), (event.get("lastTimestamp") or "", event["message"])
            newest[uid] = max(newest.get(uid, ("", "")), dated)
        return {uid: message for uid, (_, message) in newest.items()}
