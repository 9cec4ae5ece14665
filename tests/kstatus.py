"""What tools make of a status: kstatus' algorithm, and the rules whose breach makes tools wait for ever or lie.

Rules: metav1.Condition's own, kstatus (sigs.k8s.io/cli-utils), and Flux's conditions checker. Used on every status that
a test sees, as plain JSON.
"""

from __future__ import annotations

import re
from typing import Any

Body = dict[str, Any]
FIELDS = {"type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"}
ONLY_WHILE_TRUE = ("Reconciling", "Stalled")


def kstatus(body: Body) -> str:
    """Current, InProgress, Failed or Terminating, as Flux and Helm would say.

    `tests/cluster/test_kstatus.py` compares it with the original."""
    metadata, status = body["metadata"], body.get("status", {})
    if "deletionTimestamp" in metadata:
        return "Terminating"
    if status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    by_type = _by_type(status)
    true = {kind for kind, entry in by_type.items() if entry["status"] == "True"}
    if "Stalled" in true:
        return "Failed"
    if "Reconciling" in true or ("Ready" in by_type and "Ready" not in true):
        return "InProgress"
    return "Current"


def breaches(status: Body, *, generation: int | None = None) -> list[str]:
    """Everything that a reader of conditions would stumble over; empty for a sound status."""
    entries = status.get("conditions", [])
    found = [breach for entry in entries for breach in _entry_breaches(entry)]
    found += _set_breaches(status)
    if len(entries) != len(_by_type(status)):
        found.append("a condition type occurs twice")
    for entry in entries:
        if entry["observedGeneration"] != status.get("observedGeneration"):
            found.append(f"{entry['type']} is of another generation than the status")
    if generation is not None and status.get("observedGeneration", 0) > generation:
        found.append("observedGeneration lies in the future")
    return found


def _entry_breaches(entry: Body) -> list[str]:
    found = []
    if set(entry) != FIELDS:
        found.append(f"{entry['type']} has not exactly the fields of metav1.Condition: {sorted(entry)}")
    if entry["status"] not in ("True", "False", "Unknown"):
        found.append(f"{entry['type']} has status {entry['status']}")
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", entry["reason"]):
        found.append(f"{entry['type']} has reason {entry['reason']!r}, which is not CamelCase")
    if not entry["message"].strip() or len(entry["message"]) > 32_768:
        found.append(f"{entry['type']} has no message, or too long a one")
    if entry["type"] in ONLY_WHILE_TRUE and entry["status"] != "True":
        found.append(f"{entry['type']} is there while it is {entry['status']}")
    return found


def _set_breaches(status: Body) -> list[str]:
    by_type = _by_type(status)
    true = {kind for kind, entry in by_type.items() if entry["status"] == "True"}
    checks = {
        "Ready is missing": bool(by_type) and "Ready" not in by_type,
        "Reconciling and Stalled are both True": {"Reconciling", "Stalled"} <= true,
        "Ready is True while Reconciling or Stalled": "Ready" in true and bool(true & set(ONLY_WHILE_TRUE)),
        "Ready without Finished": "Ready" in true and "Finished" not in true,
        "Finished is there while it is not True": "Finished" in by_type and "Finished" not in true,
        "Finished neither Ready nor Stalled: tools would wait for ever": "Finished" in true
        and not true & {"Ready", "Stalled"},
        "Running is True in a run that is over": {"Running", "Finished"} <= true,
        "Running and Suspended are both True": {"Running", "Suspended"} <= true,
        "Ready without an artifact": "Ready" in true and "artifact" not in status,
        "completionTime and Finished disagree": ("completionTime" in status) != ("Finished" in true),
    }
    for kind in ONLY_WHILE_TRUE:
        if kind in true and "Ready" in by_type:
            checks[f"Ready and {kind} give different reasons"] = by_type[kind]["reason"] != by_type["Ready"]["reason"]
    return [sentence for sentence, broken in checks.items() if broken]


def regressions(before: Body, after: Body, *, sampled: bool = False) -> list[str]:
    """What a later status must not have taken back. Between samples a condition may have gone and come back."""
    found = []
    old, new = _by_type(before), _by_type(after)
    if "Finished" in old and "Finished" not in new:
        found.append("Finished was taken back")
    for kind in set(old) & set(new):
        since, now = old[kind]["lastTransitionTime"], new[kind]["lastTransitionTime"]
        moved = now != since and old[kind]["status"] == new[kind]["status"]
        if now < since or (moved and not sampled):
            found.append(f"lastTransitionTime of {kind} moved without a transition, or went back")
    for field in ("runDigest", "dataset", "model", "chosen", "className", "artifact"):
        if field in before and before[field] != after.get(field):
            found.append(f"{field} changed after it was known")
    ended = {(a["stage"], a["number"]): a for a in before.get("attempts", []) if a.get("reason")}
    later = {(a["stage"], a["number"]): a for a in after.get("attempts", [])}
    for key, attempt in ended.items():
        if later.get(key) not in (attempt, None):
            found.append(f"the record of {key} was rewritten after it was closed")
    return found


def _by_type(status: Body) -> dict[str, Body]:
    return {entry["type"]: entry for entry in status.get("conditions", [])}
