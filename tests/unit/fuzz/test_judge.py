"""The judge of the fuzzing: what it lets pass, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz.judge import End, Outcome, Violation, refused, settled

Body = dict[str, Any]


def invalid(*causes: tuple[str, str, str]) -> Body:
    """The Status of an object that the API server finds invalid; reason, field and message of each cause."""
    listed = [{"reason": reason, "field": field, "message": message} for reason, field, message in causes]
    return {"reason": "Invalid", "message": 'LoraFineTune "x" is invalid: ...', "details": {"causes": listed}}


TOO_LOW = ("FieldValueInvalid", "spec.lora.r", "Invalid value: 0: spec.lora.r in body should be greater than 0")
BROKEN_RULE = ("FieldValueInvalid", "spec", 'Invalid value: "object": no such key: training evaluating rule: a rule')
SILENT = ("FieldValueInvalid", "spec.lora.r", "Invalid value: 0: Invalid")


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (422, invalid(TOO_LOW), "Invalid FieldValueInvalid"),
        (422, invalid(("FieldValueRequired", "spec.model", "Required value")), "Invalid FieldValueRequired"),
        (422, invalid(BROKEN_RULE, TOO_LOW), "Invalid FieldValueInvalid"),
        (400, {"reason": "BadRequest", "message": 'strict decoding error: unknown field "spec.x"'}, "BadRequest"),
        (
            403,
            {"reason": "Forbidden", "message": "ValidatingAdmissionPolicy 'x' denied request: spec.lora.r is 65"},
            "the class's policy",
        ),
    ],
)
def test_a_sentence_is_enough(status: int, answer: Body, reason: str) -> None:
    assert refused(status, answer) == Outcome(end=End.REFUSED, reason=reason)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (500, {"message": "panic"}, "answers 500"),
        (422, invalid(BROKEN_RULE), "expression breaks"),
        (422, invalid(TOO_LOW, SILENT), "without saying why"),
        (422, {"message": "Invalid"}, "without saying why"),
        (403, {"message": "expression 'x' resulted in error: no such key: pod"}, "expression breaks"),
    ],
)
def test_less_is_not(status: int, answer: Body, words: str) -> None:
    with pytest.raises(Violation, match=words):
        refused(status, answer)


def a_run(reason: str, *, generation: int = 1, **true: bool) -> Body:
    """A run whose conditions give this reason."""

    def condition(kind: str, status: bool) -> Body:
        return {
            "type": kind,
            "status": str(status),
            "reason": reason,
            "message": "It is so because.",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T12:00:00Z",
        }

    conditions = [condition(kind, status) for kind, status in ({"Ready": False} | true).items()]
    status: Body = {"observedGeneration": 1, "conditions": conditions}
    if true.get("Finished"):
        status["completionTime"] = "2026-01-01T12:00:00Z"
    return {"metadata": {"generation": generation}, "status": status}


@pytest.mark.parametrize(
    ("run", "end"),
    [
        (a_run("Preparing", Accepted=True, Reconciling=True), End.RUNNING),
        (a_run("PolicyViolation", Accepted=False, Stalled=True), End.NOT_ACCEPTED),
        (a_run("DatasetInvalid", Accepted=True, Finished=True, Stalled=True), End.FAILED),
        (a_run("SuspendedByUser", Accepted=True, Suspended=True), End.SUSPENDED),
    ],
)
def test_how_a_run_stands(run: Body, end: End) -> None:
    found = settled(run)
    assert found is not None
    assert found.end is end


@pytest.mark.parametrize("run", [{"metadata": {"generation": 1}}, a_run("Preparing", generation=2, Accepted=True)])
def test_a_run_of_which_the_operator_has_not_spoken_is_waited_for(run: Body) -> None:
    assert settled(run) is None


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (a_run("SpecInvalid", Accepted=False, Stalled=True), "cannot read or use"),
        (a_run("ChildRefused", Accepted=True, Stalled=True), "cannot read or use"),
        (a_run("Preparing", Accepted=True, Stalled=True, Reconciling=True), "unsound"),
    ],
)
def test_what_must_not_be_said(run: Body, words: str) -> None:
    with pytest.raises(Violation, match=words):
        settled(run)
