"""What the status of a class says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from lora_operator.api.lorafinetuneclass import ClassStatus, LoraFineTuneClassSpec
from lora_operator.planning.class_status import class_status
from lora_operator.planning.observed import ClassView

from tests import kstatus
from tests.builders import T0, after, class_spec

VIEW = ClassView(
    name="h100", is_default=False, spec=LoraFineTuneClassSpec.model_validate(class_spec()), uid="1", generation=3
)


def told(
    view: ClassView,
    *,
    defaults: tuple[str, ...] = (),
    unfinished: int = 0,
    problems: Mapping[str, int] | None = None,
    now: datetime = T0,
) -> ClassStatus:
    def at(moment: datetime, view: ClassView) -> ClassStatus:
        counted = Counter(problems or {})
        return class_status(view, defaults=defaults, unfinished=unfinished, problems=counted, now=moment)

    status = at(now, view)
    assert at(after(60), replace(view, status=status)) == status
    return status


def message(status: ClassStatus) -> str:
    return next(condition.message for condition in status.conditions if condition.type == "Ready")


def read_by_kstatus(view: ClassView, status: ClassStatus) -> str:
    return kstatus.kstatus({"metadata": {"generation": view.generation}, "status": status.wire()})


def test_a_class_that_can_be_used_is_ready() -> None:
    status = told(VIEW, unfinished=2)
    assert (status.observed_generation, status.unfinished_runs) == (3, 2)
    assert read_by_kstatus(VIEW, status) == "Current"
    assert message(status) == "Runs that name this class use it."


def test_a_class_that_cannot_be_read_is_stalled_and_says_why() -> None:
    invalid = replace(VIEW, spec=None, error="spec.later: Extra inputs are not permitted")
    status = told(invalid)
    assert read_by_kstatus(invalid, status) == "Failed"
    assert "spec.later" in message(status)


def test_a_class_says_that_it_is_offered_to_some_namespaces_only() -> None:
    selector = {"matchLabels": {"team": "ml"}}
    spec = LoraFineTuneClassSpec.model_validate(class_spec(namespaceSelector=selector))
    assert message(told(replace(VIEW, spec=spec))) == (
        "Runs that name this class use it in the namespaces that its spec.namespaceSelector selects."
    )


def test_a_class_counts_what_its_runs_stand_at() -> None:
    status = told(VIEW, unfinished=6, problems={"SecretNotFound": 1, "ImagePullFailed": 3, "PodRefused": 1})
    assert [(problem.reason, problem.runs) for problem in status.problems] == [
        ("ImagePullFailed", 3),
        ("PodRefused", 1),
        ("SecretNotFound", 1),
    ]


def test_a_paused_class_is_not_ready_and_not_stalled() -> None:
    paused = replace(VIEW, spec=LoraFineTuneClassSpec.model_validate(class_spec(paused=True)))
    status = told(paused)
    assert {entry.type: (entry.status, entry.reason) for entry in status.conditions} == {
        "Ready": ("False", "ClassPaused"),
        "Stalled": ("False", "ClassPaused"),
    }
    assert "spec.paused is true" in message(status)


def test_a_class_says_when_there_are_two_defaults() -> None:
    default = replace(VIEW, is_default=True)
    assert "runs that name no class" in message(told(default, defaults=("h100",)))
    assert "a100, h100 are all marked as default" in message(told(default, defaults=("h100", "a100")))


def test_a_class_that_is_fixed_turns_over() -> None:
    invalid = replace(VIEW, spec=None, error="spec.later: unknown")
    fixed = replace(VIEW, status=told(invalid), generation=4)
    status = told(fixed, now=after(60))
    assert {condition.last_transition_time for condition in status.conditions} == {after(60)}
    assert read_by_kstatus(fixed, status) == "Current"
