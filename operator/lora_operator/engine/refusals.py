"""Why the Job controller could not make a pod: it says so only in Events.

They are asked for by namespace, at most once in a few seconds, whatever the number of Jobs that wait there: Events have
no index, so each such list costs the API server a look at all of the namespace's.
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
    """What was last heard in each namespace."""

    gateway: Gateway
    _asked: dict[str, datetime] = field(default_factory=dict)
    _told: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Newest sentence by namespace and uid of the Job."""

    async def of(self, job: JobView, namespace: str, now: datetime) -> str | None:
        """The Job controller's sentence, or None. Raises KubeError."""
        if not job.lacks_pod or now < job.created + POD_PATIENCE:
            return None
        asked = self._asked.get(namespace)
        if asked is None or abs(now - asked) >= POD_PATIENCE:
            self._asked[namespace] = now  # first, so that of many workers one asks
            self._told[namespace] = await self._ask(namespace)
        return self._told[namespace].get(job.uid)

    async def _ask(self, namespace: str) -> dict[str, str]:
        newest: dict[str, tuple[str, str]] = {}
        async for event in self.gateway.list(EVENTS, namespace, fields=f"reason={POD_NOT_CREATED}"):
            uid, told = event["involvedObject"].get("uid", ""), (event.get("lastTimestamp") or "", event["message"])
            newest[uid] = max(newest.get(uid, ("", "")), told)
        return {uid: message for uid, (_, message) in newest.items()}
