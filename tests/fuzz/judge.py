"""Whether an object ended as it may, and how that is called. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lora_operator.api.reasons import Reason

from tests import kstatus

Body = dict[str, Any]

BROKEN = ("no such key", "no such overload", "evaluation error", "resulted in error", "cost budget", "no such field")
"""What the API server says of an expression that breaks instead of judging."""
IMPOSSIBLE = (Reason.SPEC_INVALID, Reason.CLASS_INVALID, Reason.CHILD_REFUSED)
"""The CRDs are made of the operator's own models: what they let pass it must be able to read, and to
make Jobs of."""
LEAST_WORDS = 3


class Violation(Exception):
    """Something happened that must never happen."""


class End(StrEnum):
    """How an object may end."""

    REFUSED = "refused by the API server"
    NOT_ACCEPTED = "not accepted by the operator"
    FAILED = "failed"
    SUSPENDED = "suspended"
    RUNNING = "running"
    DELETED = "deleted"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one object ended, and why."""

    end: End
    reason: str


def refused(status: int, answer: Body) -> Outcome:
    """The outcome of a request that the API server refused. Raises Violation where it does not say why."""
    message = answer.get("message", "")
    if status >= 500:
        raise Violation(f"the API server answers {status}: {message}")
    causes = (answer.get("details") or {}).get("causes", ())
    sentences = [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes] or [message]
    # After a wrong type, rules that would have read the field break as well; that says nothing more.
    sound = [sentence for sentence in sentences if not any(words in sentence for words in BROKEN)]
    if not sound:
        raise Violation(f"an expression breaks: {message}")
    if silent := next((sentence for sentence in sound if not _explains(sentence)), None):
        raise Violation(f"the API server refuses without saying why: {silent}")
    if "ValidatingAdmissionPolicy" in message:
        return Outcome(end=End.REFUSED, reason="the class's policy")
    reason = answer.get("reason", str(status))
    return Outcome(end=End.REFUSED, reason=f"{reason} {causes[0].get('reason', '')}" if causes else reason)


def _explains(sentence: str) -> bool:
    """Whether it says more than which value is wrong: a value that is missing or there twice explains itself."""
    if re.search(r"(Required value|Duplicate value|Forbidden|Too long|Too many|Unsupported value)", sentence):
        return True
    _, _, rest = sentence.rpartition("Invalid value: ")
    without_value = re.sub(r'^("(\\.|[^"\\])*"|\S+):', "", rest)
    return len(re.findall(r"[A-Za-z]{2,}", without_value)) >= LEAST_WORDS


def settled(run: Body) -> Outcome | None:
    """How the run stands, or None while the operator has more to say: it is then either waited for or too late.

    `End.RUNNING` is what the operator says; whether there is a Job is to be seen. Raises Violation."""
    status, generation = run.get("status", {}), run["metadata"]["generation"]
    by_type = {entry["type"]: entry for entry in status.get("conditions", ())}
    if status.get("observedGeneration") != generation or "Ready" not in by_type:
        return None
    if found := kstatus.breaches(status, generation=generation):
        raise Violation(f"its status is unsound: {'; '.join(found)}")
    ready = by_type["Ready"]
    if ready["reason"] in IMPOSSIBLE:
        raise Violation(f"the operator cannot read or use what the CRD let pass: {ready['message']}")
    if len(ready["message"].split()) < LEAST_WORDS:
        raise Violation(f"the operator does not say why: {ready['message']}")
    true = {name for name, entry in by_type.items() if entry["status"] == "True"}
    for end, holds in (
        (End.FAILED, "Finished" in true and "Ready" not in true),
        (End.NOT_ACCEPTED, "Accepted" not in true),
        (End.SUSPENDED, "Suspended" in true),
    ):
        if holds:
            return Outcome(end=end, reason=ready["reason"])
    return Outcome(end=End.RUNNING, reason=ready["reason"])
