"""What is told in Events, and that it is told once."""

from __future__ import annotations

from lora_operator.planning.plan import Plan
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Outcome, encode_outcome

from tests.builders import failed_text, prepared_text
from tests.unit.operator.simulation import PREPARE, TRAIN, TRAIN_2, Simulation, preparing, training
from tests.unit.operator.test_plan_attempts import silent_for


def told(plan: Plan) -> list[tuple[str, str]]:
    return [(event.reason, event.message) for event in plan.events]


def out_of_memory(world: Simulation, job: str, *, from_step: int | None = None) -> Plan:
    outcome = Outcome(reason="OutOfMemory", message="Memory ran out.", step=45, from_step=from_step)
    world.end(job, ExitCode.OutOfMemory, encode_outcome(outcome))
    return world.reconcile()


def test_what_prepare_found_is_told_before_training_starts() -> None:
    world = preparing()
    world.end(PREPARE, 0, prepared_text())
    prepared, starting = told(world.reconcile())
    assert prepared[0] == "Prepared"
    assert prepared[1].startswith("940 of 1000 rows")
    assert starting == ("Starting", f"Job {TRAIN} waits for its pod to start.")
    world.settle()
    assert world.events.count("Prepared") == 1


def test_a_smaller_batch_is_told_with_its_figures() -> None:
    world = training(micro_batch=8, accumulation=2)
    plan = out_of_memory(world, TRAIN)
    assert [reason for reason, _ in told(plan)] == ["OutOfMemory", "BatchShrunk", "Starting"]
    assert told(plan)[1][1] == (
        "Train attempt 2 uses perDeviceTrainBatchSize 4 and gradientAccumulationSteps 4: the same effective batch, "
        "with less memory."
    )
    world.settle()
    assert world.events.count("BatchShrunk") == 1


def test_a_resumption_that_only_the_last_word_tells_of_is_that_of_its_own_attempt() -> None:
    world = training()
    out_of_memory(world, TRAIN)
    plan = out_of_memory(world, TRAIN_2, from_step=30)
    assert ("Resumed", "Train attempt 2 resumed from the checkpoint of step 30.") in told(plan)


def test_a_resumption_that_was_polled_is_told_once() -> None:
    world = training()
    world.end(TRAIN, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable, step=40))
    world.settle()
    world.pass_time(10)
    world.settle()
    world.start(TRAIN_2)
    for _ in range(3):
        world.settle(polled=silent_for(0, pod=f"{TRAIN_2}-3", step=41, resumedFromStep=30))
    assert world.events[-3:] == ["Starting", "Resumed", "Training"]
    world.end(TRAIN_2, ExitCode.StorageUnavailable, failed_text(ExitCode.StorageUnavailable, step=50))
    world.settle()
    assert world.events.count("Resumed") == 1
