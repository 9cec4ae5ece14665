"""Every write that the API server applied: who made it, and what was there before. Checked as it comes in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lora_operator.naming import RUN_LABEL

from tests.fakes.store import Change

Obj = dict[str, Any]
CLUSTER = "cluster"
"""Whoever is no operator: users, the kubelet, controllers."""


@dataclass(frozen=True, kw_only=True)
class Write:
    """One applied write. `old` of a creation and `new` of a deletion are None."""

    second: float
    actor: str
    resource: str
    old: Obj | None
    new: Obj | None

    @property
    def obj(self) -> Obj:
        """The object as it is after the write, or was before its deletion."""
        found = self.new or self.old
        assert found is not None
        return found

    def __str__(self) -> str:
        metadata = self.obj["metadata"]
        verb = "create" if self.old is None else "delete" if self.new is None else "update"
        deleting = " deleting" if metadata.get("deletionTimestamp") else ""
        what = f"{self.resource}/{metadata['name']}{deleting} {_gist(self.obj)}"
        return f"{self.second:9.2f}s {self.actor:12} {verb} {what}"


@dataclass
class Audit:
    """The history of a world, and what was found wrong in it."""

    time: Callable[[], float]
    check: Callable[[Write], list[str]]
    writes: list[Write] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    """What was done to the world, and when."""
    violations: list[tuple[str, str]] = field(default_factory=list)
    """Name of the run, and the sentence."""
    _actor: str = CLUSTER

    @contextmanager
    def by(self, actor: str) -> Iterator[None]:
        """Meanwhile this one writes."""
        self._actor = actor
        try:
            yield
        finally:
            self._actor = CLUSTER

    def see(self, change: Change) -> None:
        """A change was applied."""
        write = Write(second=self.time(), actor=self._actor, resource=change.key, old=change.old, new=change.new)
        self.writes.append(write)
        self.violations += [(run_of(write.obj), sentence) for sentence in self.check(write)]

    def history(self, run: str) -> str:
        """All that happened to a run, its children and the world, in order."""
        lines = [(write.second, str(write)) for write in self.writes if run_of(write.obj) == run]
        lines += [(second, f"{second:9.2f}s FAULT        {what}") for second, what in self.faults]
        return "\n".join(line for _, line in sorted(lines, key=lambda entry: entry[0]))

    @property
    def digest(self) -> str:
        """The same for the same history. Leases hold the machine's own time."""
        digest = hashlib.sha256()
        for write in self.writes:
            if not write.resource.startswith("leases"):
                digest.update(f"{write.second} {write.actor} {json.dumps(write.new, sort_keys=True)}\n".encode())
        return digest.hexdigest()


def run_of(obj: Obj) -> str:
    """Name of the run that an object is, belongs to or tells of; the object's own where there is none."""
    metadata = obj["metadata"]
    told_of = obj.get("involvedObject", {}).get("name")
    return metadata.get("labels", {}).get(RUN_LABEL) or told_of or metadata["name"]


def _gist(obj: Obj) -> str:
    """What of an object's state tells its story."""
    status = obj.get("status", {})
    told = [status["phase"]] if "phase" in status else []
    for container in status.get("containerStatuses", ()):
        if ended := container["state"].get("terminated"):
            told.append(f"exit {ended['exitCode']}")
    told += [f"{a['stage']}-{a['number']}:{a.get('reason', 'open')}" for a in status.get("attempts", ())]
    told += [f"step {status['progress']['step']}"] if "progress" in status else []
    shown = ("Ready", "Finished", "Complete", "Failed", "DisruptionTarget")
    conditions = [entry for entry in status.get("conditions", ()) if entry["type"] in shown]
    told += [f"{entry['type']}={entry['status']}({entry.get('reason', '')})" for entry in conditions]
    suspended = obj.get("spec", {}).get("suspend")
    return " ".join(told) + (" suspended" if suspended else "")
