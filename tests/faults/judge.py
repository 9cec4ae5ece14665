"""Whether a run ended as it had to, given what truly happened to its attempts. Pure.

The rules of retrying are stated here a second time, from docs/concepts/life-of-a-run.md, not from the operator's code.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lora_operator.naming import Stage
from lora_trainer.contract.batch import halvings
from lora_trainer.contract.exits import ExitClass, exit_class

from tests.faults.scripts import MICRO_BATCH, Script
from tests.faults.trainers import Truth

Obj = dict[str, Any]
DECIDED = (None, "SuspendedByUser", "DeadlineExceeded", "NoProgress")
"""Attempts that the operator ended: their pods did not end by themselves."""
DEFAULT_RETRIES = 3
BY_REASON = {
    "SuspendedByUser": ExitClass.INTERRUPTED,
    "NoProgress": ExitClass.STUCK,
    "Disrupted": ExitClass.INTERRUPTED,
    "ResultLost": ExitClass.INTERRUPTED,
    "PodLost": ExitClass.INFRASTRUCTURE,
    "JobDeleted": ExitClass.INFRASTRUCTURE,
    "PodRejected": ExitClass.INFRASTRUCTURE,
    "OutOfHostMemory": ExitClass.BUG,
    "OutOfEphemeralStorage": ExitClass.BUG,
    "OutcomeMissing": ExitClass.BUG,
}


def judge(run: Obj, script: Script, truth: Truth) -> list[str]:
    """What is wrong with how the run ended."""
    status, uid = run.get("status", {}), run["metadata"]["uid"]
    ready = next((entry for entry in status.get("conditions", ()) if entry["type"] == "Ready"), {"reason": "nothing"})
    attempts = status.get("attempts", [])
    found = [sentence for attempt in attempts for sentence in _untrue(attempt, script, truth, uid)]
    if uid not in truth.disturbed:
        if ready["reason"] != script.expected:
            found.append(f"it ended with {ready['reason']} instead of {script.expected}")
        found += [sentence for stage in Stage for sentence in _not_once(stage, attempts, truth, uid)]
    if ready["reason"] == "DeadlineExceeded":
        return found + ([] if script.expected == "DeadlineExceeded" else ["its deadline was far away"])
    return found + _unjustified(ready["reason"], attempts, run["spec"].get("retryLimit", DEFAULT_RETRIES))


def _untrue(attempt: Obj, script: Script, truth: Truth, uid: str) -> list[str]:
    """An attempt must be closed, with something that truly happened to it."""
    happened = truth.ends.get((uid, attempt["stage"], attempt["number"]), set())
    reason = attempt.get("reason")
    if reason == "SuspendedByUser" and uid in truth.suspended:
        return []
    if reason == script.expected == "DeadlineExceeded":
        return []
    if "PodLost" in happened and happened & {"Succeeded", "OutcomeMissing"}:
        # Work that was done is not lost with its pod, and costs no retry. What a pod that exited with 0 said, if
        # anything, is gone with it.
        happened = happened - {"PodLost"} | {"ResultLost"}
    if reason in happened or (reason is None and attempt["stage"] == Stage.TRAIN and "Succeeded" not in happened):
        return []
    return [f"{attempt['stage']} attempt {attempt['number']} says {reason}, but {sorted(happened)} happened to it"]


def _not_once(stage: Stage, attempts: list[Obj], truth: Truth, uid: str) -> list[str]:
    """Undisturbed, each end of a pod is one attempt: nothing is lost and nothing done twice."""
    if uid in truth.suspended:
        return []  # a pod may have ended by itself when its attempt was closed already
    told = [entry.get("reason") for entry in attempts if entry["stage"] == stage]
    told = [reason for reason in told if reason not in DECIDED]
    happened = [reason for reason in truth.natural[uid, stage] if reason not in DECIDED]
    return [] if told == happened else [f"{stage} attempts tell {told}, but there were {happened}"]


def _unjustified(reason: str, attempts: list[Obj], retry_limit: int) -> list[str]:
    last = attempts[-1] if attempts else {"stage": "prepare", "number": 0, "reason": None}
    if reason in ("AdapterPublished", "AdapterReused"):
        stage = Stage.TRAIN if reason == "AdapterPublished" else Stage.PREPARE
        good = (last["stage"], last.get("reason")) == (stage, "Succeeded")
        return [] if good else [f"{reason} although {last['stage']} ended with {last.get('reason')}"]
    if reason != last.get("reason"):
        return [f"it failed with {reason} although its last attempt ended with {last.get('reason')}"]
    ends = [entry for entry in attempts if entry["stage"] == last["stage"]]
    found = [] if _exhausted(ends, retry_limit) else [f"it gave up after {[e.get('reason') for e in ends]}"]
    if any(_exhausted(ends[:count], retry_limit) for count in range(1, len(ends))):
        found.append(f"it went on after it should have given up: {[e.get('reason') for e in ends]}")
    return found


def _exhausted(ends: list[Obj], retry_limit: int) -> bool:
    """Whether the last of these ends was one too many."""
    classes = Counter(_class(end) for end in ends)
    last = _class(ends[-1])
    allowed = {
        ExitClass.USER_ERROR: 0,
        ExitClass.INFRASTRUCTURE: retry_limit,
        ExitClass.BUG: 1,
        ExitClass.STUCK: 1,
        ExitClass.OUT_OF_MEMORY: halvings(MICRO_BATCH),
    }
    return last in allowed and classes[last] > allowed[last]


def _class(end: Obj) -> ExitClass:
    reason = end.get("reason")
    return BY_REASON[reason] if reason in BY_REASON else exit_class(end.get("exitCode", 1))
