"""What keeps a run from starting, in the words of the person who can mend it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lora_operator.naming import Stage
from lora_operator.planning.observed import ClassView, TakenName
from lora_operator.planning.plan import Create
from lora_trainer.contract.exits import ExitCode

from tests.builders import NAMESPACE, a_class, a_job, a_resolved, a_run
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, starting, training

BLOCKS = [
    ("no classes", {}, (), {}, "ClassNotFound", "no LoraFineTuneClass yet"),
    ("none is default", {}, (a_class("a", default=False), a_class("b", default=False)), {}, "ClassNotFound", "a, b"),
    ("two are default", {}, (a_class("a"), a_class("b")), {}, "ClassNotFound", "(a, b)"),
    ("named one missing", {"className": "big"}, (a_class("a"),), {}, "ClassNotFound", "big (spec.className)"),
    ("invalid class", {}, (a_class("a", invalid="spec.image: Field required"),), {}, "ClassInvalid", "spec.image"),
    ("output in use", {}, (a_class(),), {"output_holder": (NAMESPACE, "older")}, "OutputInUse", "LoraFineTune older"),
    ("elsewhere", {}, (a_class(),), {"output_holder": ("secret", "name")}, "OutputInUse", "of another namespace"),
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
    assert "secret" not in world.message, "nothing is told of other namespaces"
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
    world.reconcile(output_holder=(NAMESPACE, "older"))
    assert world.reason == "ClassNotFound"


def test_a_gated_run_asks_for_no_live_reads() -> None:
    world = Simulation(classes=())
    assert not world.reconcile().decisive


# --- what is recorded, and what exists under the names of children ------------------------------------------------

FORGED = TakenName(child="ConfigMap any", forged=True)
FOREIGN = TakenName(child="ConfigMap any")
JOB = TakenName(child=f"Job {PREPARE}")


def recorded(**spec: Any) -> Simulation:
    """A run of which the operator recorded what it resolves to, and did no more."""
    world = Simulation(run=a_run(**spec))
    plan = world.reconcile()
    assert (plan.actions, world.run.status.conditions) == ((), ())
    return world


def test_the_start_is_a_record_and_then_one_config_map_and_one_job() -> None:
    world = recorded()
    plan = world.reconcile()
    assert [type(action) for action in plan.actions] == [Create, Create]
    assert world.resolved is not None
    assert world.run.status.resolved_digest == world.resolved.digest


def test_a_record_without_a_config_map_follows_the_class() -> None:
    world = recorded()
    before = world.run.status.resolved_digest
    world.classes = (a_class(image="registry.example/another:2"),)
    plan = world.reconcile()
    assert plan.decisive, "only a live read shows the ConfigMap of the earlier record"
    assert plan.actions == ()
    assert world.run.status.resolved_digest != before
    world.settle()
    assert world.created == [PREPARE]
    assert world.resolved is not None
    assert world.resolved.class_spec.image == "registry.example/another:2"


def test_a_config_map_as_recorded_outlives_its_class() -> None:
    world = recorded()
    world.resolved = a_resolved(world.run)
    world.classes = ()
    world.settle()
    assert world.created == [PREPARE]


def test_a_config_map_as_recorded_is_no_right_to_the_output() -> None:
    world = recorded()
    world.resolved = a_resolved(world.run)
    world.settle(output_holder=(NAMESPACE, "other"))
    assert (world.reason, world.created) == ("OutputInUse", [])


@pytest.mark.parametrize("taken", [FORGED, FOREIGN, JOB])
@pytest.mark.parametrize("begun", [False, True])
def test_nothing_starts_while_another_object_has_the_name_of_a_child(taken: TakenName, begun: bool) -> None:
    world = starting() if begun else recorded()
    if begun:
        world.delete_job(TRAIN)
        world.settle()
        world.pass_time(3600)
    created = list(world.created)
    plan = world.reconcile(taken=taken)
    assert (world.reason, world.condition("Stalled")) == ("NameTaken", ("True", "NameTaken"))
    assert world.condition("Accepted") == ("True", "Accepted")
    assert taken.child in world.message
    assert ("names this LoraFineTune as its owner" in world.message) == taken.forged
    assert world.condition("Running" if begun else "Prepared") == ("False", "NameTaken")
    assert (plan.actions, world.created) == ((), created)
    world.settle()
    assert len(world.created) == len(created) + 1


def test_the_operator_looks_less_and_less_often_whether_a_name_is_free() -> None:
    world, looks = recorded(), []
    for _ in range(7):
        look = world.reconcile(taken=FOREIGN).requeue_after
        assert look is not None
        looks.append(look.total_seconds())
        world.pass_time(looks[-1])
    assert looks == [3, 3, 6, 12, 24, 48, 60]


def test_jobs_that_exist_before_the_record_are_no_attempts() -> None:
    world = Simulation(run=a_run(suspend=True), jobs={PREPARE: a_job(Stage.PREPARE)})
    world.settle()
    assert world.reason == "SuspendedByUser"
    assert world.run.status.attempts == ()
    world.classes = ()
    world.edit(suspend=False)
    world.settle()
    assert (world.reason, world.run.status.attempts) == ("ClassNotFound", ())


def test_a_run_at_work_goes_on_when_its_config_map_is_replaced_and_its_class_changes() -> None:
    """As after a restart, when the operator no longer knows what the ConfigMap was."""
    world = training(classes=(a_class(limits={"maxRuntimeSeconds": 1000}),))
    world.resolved, world.classes = None, (a_class(limits={"maxRuntimeSeconds": 500}),)
    world.settle(taken=FORGED)
    assert world.reason == "Training"
    world.pass_time(400)
    world.settle(taken=FORGED)
    assert world.reason == "Training"
    world.pass_time(100)
    world.settle(taken=FORGED)
    assert world.condition("Finished") == ("True", "DeadlineExceeded"), "the class still limits it"


def test_a_run_whose_config_map_is_lost_starts_no_pod_from_a_changed_class() -> None:
    world = training()
    world.resolved, world.classes = None, (a_class(image="registry.example/another:2"),)
    world.end(TRAIN, ExitCode.StorageUnavailable)
    world.settle()
    world.pass_time(3600)
    plan = world.settle()
    assert (world.reason, world.condition("Stalled")) == ("ConfigMapLost", ("True", "ConfigMapLost"))
    assert (plan.actions, world.created) == ((), [PREPARE, TRAIN])
    world.classes = (a_class(),)
    world.settle()
    assert world.created == [PREPARE, TRAIN, TRAIN_2], "the class is as it was"


def test_a_pod_that_waits_for_a_config_map_that_is_lost_is_told() -> None:
    world = starting()
    world.resolved, world.classes = None, (a_class(image="registry.example/another:2"),)
    world.settle(lacks_config_map=True)
    assert world.reason == "ConfigMapLost"
    assert world.resolved is None


def test_a_run_that_an_earlier_version_started_goes_on_and_is_recorded() -> None:
    world = training()
    assert world.resolved is not None
    digest = world.resolved.digest
    without = world.run.status.model_copy(update={"resolved_digest": None})
    world.run = replace(world.run, status=without)
    world.classes = ()
    world.settle()
    assert (world.reason, world.run.status.resolved_digest) == ("Training", digest)
