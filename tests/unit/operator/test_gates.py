"""What keeps a run from starting, in the words of the person who can mend it."""

from __future__ import annotations

from typing import Any

import pytest
from lora_operator.planning.observed import ClassView
from lora_operator.planning.plan_builder import Create

from tests.builders import a_class, a_run
from tests.unit.operator.simulation import Simulation, starting, training

BLOCKS = [
    ("no classes", {}, (), {}, "ClassNotFound", "no LoraFineTuneClass yet"),
    ("none is default", {}, (a_class("a", default=False), a_class("b", default=False)), {}, "ClassNotFound", "a, b"),
    ("two are default", {}, (a_class("a"), a_class("b")), {}, "ClassNotFound", "(a, b)"),
    ("named one missing", {"className": "big"}, (a_class("a"),), {}, "ClassNotFound", "big (spec.className)"),
    ("invalid class", {}, (a_class("a", invalid="spec.image: Field required"),), {}, "ClassInvalid", "spec.image"),
    ("output in use", {}, (a_class(),), {"output_holder": "team-a/older"}, "OutputInUse", "team-a/older"),
    ("name taken", {}, (a_class(),), {"taken_name": "Job text-to-sql-prepare-1"}, "NameTaken", "text-to-sql-prepare-1"),
]


@pytest.mark.parametrize(
    ("spec", "classes", "seen", "reason", "words"), [row[1:] for row in BLOCKS], ids=[row[0] for row in BLOCKS]
)
def test_a_gate_objects_and_opens(
    spec: dict[str, Any], classes: tuple[ClassView, ...], seen: dict[str, Any], reason: str, words: str
) -> None:
    world = Simulation(run=a_run(**spec), classes=classes)
    plan = world.reconcile(**seen)
    assert plan.actions == ()
    assert world.condition("Accepted") == ("False", reason)
    waits = "Reconciling" if reason == "OutputInUse" else "Stalled"
    assert world.condition(waits) == ("True", reason)
    assert words in world.message
    assert [(event.warning, event.reason) for event in plan.events] == [(True, reason)]
    world.reconcile(**seen)
    assert world.events == [reason], "told once"
    world.classes = (a_class(spec.get("className", "good")),)
    world.settle()
    assert world.condition("Accepted") == ("True", "Accepted")
    assert world.condition("Stalled") is None
    assert len(world.created) == 1


def test_a_named_class_needs_not_be_the_default() -> None:
    classes = (a_class("a"), a_class("b", default=False))
    world = Simulation(run=a_run(className="b"), classes=classes)
    world.settle()
    assert world.run.status.class_name == "b"


@pytest.mark.parametrize("field", ["gpus", "nodes"])
def test_a_run_that_breaks_its_class_s_limits_waits_for_another_class(field: str) -> None:
    world = Simulation(
        run=a_run(parallelism={field: 4}, queueName="gpus"), classes=(a_class("small", limits={field: 2}),)
    )
    world.settle()
    assert world.condition("Accepted") == ("False", "PolicyViolation")
    assert f"spec.parallelism.{field} is 4, but LoraFineTuneClass small allows at most 2" in world.message
    assert not world.created
    world.classes = (a_class("small", limits={field: 4}),)
    world.settle()
    assert world.condition("Accepted") == ("True", "Accepted")


def test_a_class_that_becomes_stricter_touches_no_run_that_has_begun() -> None:
    world = training(lora={"r": 64}, maxRuntimeSeconds=7200)
    strict = {"limits": {"r": 8, "maxSteps": 5, "maxRuntimeSeconds": 60}, "allowed": {"models": ["other/*"]}}
    world.classes = (a_class(**strict),)
    world.pass_time(3600)
    world.settle()
    assert world.reason == "Training"
    assert world.condition("Accepted") == ("True", "Accepted")


STEPS = 600
"""What prepare chose."""


@pytest.mark.parametrize(("most", "trains"), [(STEPS, True), (STEPS - 1, False)])
def test_epochs_count_as_steps_when_the_rows_are_known(most: int, trains: bool) -> None:
    world = starting(classes=(a_class(limits={"maxSteps": most}),), training={"numTrainEpochs": 3})
    assert bool(world.live_train_jobs) == trains
    if not trains:
        assert world.condition("Finished") == ("True", "PolicyViolation")
        assert f"would train for {STEPS} steps" in world.message
        assert f"allows at most {most} (its spec.limits.maxSteps)" in world.message


@pytest.mark.parametrize("own", [{}, {"maxRuntimeSeconds": 100}], ids=["unset", "raised later"])
def test_the_class_ends_a_run_that_sets_no_shorter_deadline(own: dict[str, int]) -> None:
    world = training(classes=(a_class(limits={"maxRuntimeSeconds": 100}),), **own)
    world.edit(max_runtime_seconds=7200 if own else None)
    world.pass_time(79)
    world.settle()
    assert world.reason == "Training", "prepare took 20 s"
    world.pass_time(1)
    world.settle()
    assert world.condition("Finished") == ("True", "DeadlineExceeded")
    assert "100 s that limits.maxRuntimeSeconds of LoraFineTuneClass h100 allows" in world.message


def test_the_class_comes_before_the_output() -> None:
    world = Simulation(classes=())
    world.reconcile(output_holder="team-a/older")
    assert world.reason == "ClassNotFound"


def test_a_gated_run_asks_for_no_live_reads() -> None:
    world = Simulation(classes=())
    assert not world.reconcile().decisive


def test_the_start_is_one_config_map_and_one_job() -> None:
    plan = Simulation().reconcile()
    assert [type(action) for action in plan.actions] == [Create, Create]
