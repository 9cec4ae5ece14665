"""What is done to the API server, as data that follow from a seed: objects to create, to change and to delete."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from lora_operator import naming

from tests.builders import class_body, run_body
from tests.crd_case import Body, edited
from tests.crd_cases import CASES
from tests.fuzz.mutations import edit, mutated
from tests.policy_cases import GUARDED, LIMITS, NAMESPACE

MANIFESTS = Path(__file__).parents[2] / "manifests"


class Deed(StrEnum):
    """What a step does."""

    CREATE = "create"
    """Create the mutated object."""
    EDIT = "edit"
    """Create a sound object, wait for it, then replace it by the mutated one."""
    DELETE = "delete"
    """Create the mutated object and delete it at once, whatever the operator is doing about it."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One object and what becomes of it."""

    number: int
    deed: Deed
    sound: Body
    """The object before anything was changed."""
    body: Body
    """The mutated one."""
    strict: bool
    """Whether unknown fields are refused, as kubectl asks, or dropped, as most controllers ask."""

    @property
    def kind(self) -> str:
        """LoraFineTune or LoraFineTuneClass."""
        return self.sound["kind"]


def step_of(number: int, *, seed_text: str) -> Step:
    """The step of that number, from 1."""
    drawn: list[Step] = []

    # The first example is the simplest one there is; from the third on they are made out of those before.
    @seed(f"{seed_text}-{number}")
    @settings(
        max_examples=2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(STEPS)
    def draw(step: Step) -> None:
        drawn.append(step)

    draw()
    return _named(drawn[-1], number)


def _named(step: Step, number: int) -> Step:
    """The step with names and an output of its own, where no mutation has put others."""
    own = {"metadata.name": f"fuzz-{number}"}
    if step.kind == naming.RUN_KIND:
        own["spec.output.uri"] = f"s3://{NAMESPACE}/fuzz/{number}"
    sound = edited(step.sound, own)
    body = copy.deepcopy(step.body)
    for path, value in own.items():
        *parents, last = path.split(".")
        before, after = step.sound, body
        for parent in parents:
            before, after = before[parent], after.get(parent) if isinstance(after, dict) else None
        if isinstance(after, dict) and after.get(last) == before[last]:
            after[last] = value
    return replace(step, number=number, sound=sound, body=body)


@st.composite
def _steps(draw: Any) -> Step:
    deed = draw(st.sampled_from([Deed.CREATE] * 6 + [Deed.EDIT] * 3 + [Deed.DELETE]))
    sound = draw(st.sampled_from(runs() if draw(st.integers(0, 9)) < 7 else classes()))
    body = draw(edit(sound) if deed is Deed.EDIT else mutated(sound))
    return Step(number=0, deed=deed, sound=sound, body=body, strict=draw(st.booleans()))


STEPS = _steps()


@cache
def runs() -> tuple[Body, ...]:
    """Sound runs: the samples, and what the tests of the rules have accepted."""
    samples = [_in_namespace(body) for body in _documents("samples", naming.RUN_KIND)]
    accepted = [case.before() for case in CASES if case.kind == naming.RUN_KIND and case.accepted]
    return (*samples, *accepted, run_body(className=GUARDED))


@cache
def classes() -> tuple[Body, ...]:
    """Sound classes that are nobody's default."""
    accepted = [case.before() for case in CASES if case.kind == naming.CLASS_KIND and case.accepted]
    return tuple(
        edited(body, {"metadata.annotations": None})
        for body in (*_documents("classes", naming.CLASS_KIND), guarded(), *accepted)
    )


def standing_classes() -> tuple[Body, ...]:
    """Classes that are there all the time: one for each name that a sound run gives, and a default."""
    named = {run["spec"]["className"] for run in runs() if "className" in run["spec"]}
    there = {body["metadata"]["name"]: body for body in (*_documents("classes", naming.CLASS_KIND), guarded())}
    large: Body = {"limits": {"gpus": 16, "nodes": 16}, "train": {"placement": "PodByPod"}}
    others = (there.get(name) or class_body(name, default=False, **large) for name in sorted(named))
    return class_body(**large), *others


def guarded() -> Body:
    """The class with all the limits."""
    return class_body(GUARDED, default=False, **LIMITS)


def _in_namespace(body: Body) -> Body:
    return edited(body, {"metadata.namespace": NAMESPACE})


def _documents(folder: str, kind: str) -> list[Body]:
    files = sorted((MANIFESTS / folder).rglob("*.yaml"))
    bodies = [body for file in files for body in yaml.safe_load_all(file.read_text())]
    return [body for body in bodies if body["kind"] == kind]
