"""Conditions as metav1.Condition has them, and the short forms of progress."""

from __future__ import annotations

from typing import Any

import pytest
from lora_operator.api.conditions import MAX_MESSAGE, Condition, ConditionType, drop, find, in_order, is_true, put
from lora_operator.api.lorafinetune import parse_stored
from lora_operator.planning.progress import short_duration
from lora_operator.settings import OperatorSettings, settings_from
from pydantic import ValidationError

from tests import kstatus
from tests.builders import T0, after, run_body, stamp

Conditions = tuple[Condition, ...]


def ready(before: Conditions = (), *, status: bool | None, seconds: float = 0, message: str = "M.") -> Conditions:
    return put(
        before,
        ConditionType.READY,
        status=status,
        reason="R",
        message=message,
        generation=1,
        now=after(seconds),
    )


def test_the_transition_time_moves_with_the_status_only() -> None:
    first = ready(status=False)
    same = ready(first, status=False, seconds=60, message="Other.")
    other = ready(same, status=True, seconds=120)
    times = [conditions[0].last_transition_time for conditions in (first, same, other)]
    assert times == [T0, T0, after(120)]
    assert same[0].message == "Other."


def test_a_clock_that_is_behind_turns_no_transition_back() -> None:
    first = ready(status=False, seconds=60)
    assert ready(first, status=True, seconds=0)[0].last_transition_time == after(60)


@pytest.mark.parametrize(("status", "word"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_the_three_words(status: bool | None, word: str) -> None:
    conditions = ready(status=status)
    assert conditions[0].status == word
    assert is_true(conditions, ConditionType.READY) == (word == "True")


def test_conditions_keep_their_order_and_unknown_ones_come_last() -> None:
    conditions: Conditions = ready(status=True)
    for kind in (ConditionType.FINISHED, ConditionType.ACCEPTED, ConditionType.RECONCILING):
        conditions = put(conditions, kind, status=True, reason="R", message="M.", generation=1, now=T0)
    stranger = conditions[0].model_copy(update={"type": "FromTheFuture"})
    kinds = [condition.type for condition in in_order((stranger, *conditions))]
    assert kinds == ["Accepted", "Finished", "Ready", "Reconciling", "FromTheFuture"]


def test_dropping_and_finding() -> None:
    conditions = ready(status=True)
    assert find(conditions, ConditionType.READY) is conditions[0]
    assert find(drop(conditions, ConditionType.READY), ConditionType.READY) is None


def test_a_long_message_is_cut() -> None:
    assert len(ready(status=True, message="x" * 9999)[0].message) == MAX_MESSAGE


def test_a_status_of_a_newer_operator_is_readable() -> None:
    entry = {"type": "New", "status": "True", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T12:00:00Z"}
    newer = {
        "conditions": [entry | {"reason": "R", "message": "M."}],
        "attempts": [{"stage": "train", "number": 1, "newField": 1}],
        "newField": {"a": 1},
    }
    body = run_body()
    body["metadata"] |= {"uid": "u", "generation": 1, "creationTimestamp": stamp(T0), "resourceVersion": "1"}
    status = parse_stored(body | {"status": newer}).status
    assert status.conditions[0].type == "New"
    assert status.attempts[0].number == 1
    assert not status.terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")]
)
def test_durations_are_told_as_kubectl_does(seconds: int, text: str) -> None:
    assert short_duration(seconds) == text


def test_settings_come_from_the_environment_and_are_validated() -> None:
    assert settings_from({}) == OperatorSettings()
    assert settings_from({"LORA_OPERATOR_WORKERS": "4", "PATH": "/bin"}).workers == 4
    with pytest.raises(ValidationError):
        settings_from({"LORA_OPERATOR_WORKERS": "many"})


# --- the checker itself -------------------------------------------------------------------------------------------


def entry(kind: str, status: str = "True", *, reason: str = "R") -> dict[str, Any]:
    stamp = "2026-01-01T12:00:00Z"
    known = {"observedGeneration": 1, "lastTransitionTime": stamp, "reason": reason, "message": "M."}
    return {"type": kind, "status": status} | known


UNSOUND = [
    ("Ready is missing", [entry("Accepted")]),
    ("both True", [entry("Ready", "False"), entry("Reconciling"), entry("Stalled")]),
    ("while it is False", [entry("Ready", "False"), entry("Stalled", "False")]),
    ("wait for ever", [entry("Ready", "False"), entry("Finished")]),
    ("different reasons", [entry("Ready", "False", reason="A"), entry("Reconciling", reason="B")]),
    ("occurs twice", [entry("Ready", "False"), entry("Ready", "False")]),
    ("not CamelCase", [entry("Ready", "False", reason="not camel")]),
]


@pytest.mark.parametrize(("words", "conditions"), UNSOUND, ids=[row[0] for row in UNSOUND])
def test_the_checker_sees_what_is_unsound(words: str, conditions: list[dict[str, Any]]) -> None:
    found = kstatus.breaches({"observedGeneration": 1, "conditions": conditions})
    assert any(words in breach for breach in found), found


def test_the_checker_accepts_what_is_sound() -> None:
    conditions = [entry("Ready", "False"), entry("Reconciling")]
    assert kstatus.breaches({"observedGeneration": 1, "conditions": conditions}) == []
