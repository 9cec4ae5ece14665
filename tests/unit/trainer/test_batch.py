"""How the rows are divided: micro-batch and accumulation, groups of answers, GPUs, and how many steps that makes."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB
from lora_trainer.micro_batch import shrink
from lora_trainer.packing import DataSize
from lora_trainer.sizing import size_run

from tests.support.runs import run_file
from tests.support.sizing import DATA, SHAPE, batch, chosen, offering


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"accelerator": {"kind": "CPU"}}, (1, 8)),
        ({"training": {"perDeviceTrainBatchSize": 4}}, (4, 1)),
        ({"training": {"packing": False, "perDeviceTrainBatchSize": 4}}, (4, 2)),
        ({"training": {"packing": False, "perDeviceTrainBatchSize": 3}}, (3, 2)),
        ({"training": {"packing": False, "perDeviceTrainBatchSize": 16}}, (16, 1)),
        ({"training": {"packing": False, "gradientAccumulationSteps": 4}}, (2, 4)),
        ({"training": {"packing": False, "gradientAccumulationSteps": 32}}, (1, 32)),
        ({"training": {"perDeviceTrainBatchSize": 2, "gradientAccumulationSteps": 16}}, (2, 16)),
    ],
)
def test_what_the_user_names_of_the_batch_stays(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert batch(**options) == expected


def grpo(generations: int, **training: Any) -> dict[str, Any]:
    settings = {"rewards": [{"length": {"target": 9}}], "numGenerations": generations, "maxCompletionLength": 200}
    return {"training": {"method": "GRPO", "maxSteps": None, "grpo": settings} | training}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (grpo(8), (8, 1)),
        (grpo(6), (4, 3)),
        (grpo(16), (16, 1)),
        (grpo(3, perDeviceTrainBatchSize=2), (2, 3)),
        (grpo(4, gradientAccumulationSteps=2), (4, 2)),
        (grpo(6) | {"accelerator": {"kind": "CPU"}}, (1, 6)),
    ],
)
def test_a_step_of_grpo_holds_whole_groups_of_answers(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert batch(**options) == expected


def test_a_batch_that_tears_a_group_apart_is_refused() -> None:
    with pytest.raises(TrainerError, match="is not a multiple of") as refused:
        batch(**grpo(3, perDeviceTrainBatchSize=2, gradientAccumulationSteps=2))
    assert refused.value.code is ExitCode.ConfigInvalid


def test_an_epoch_of_grpo_answers_every_prompt() -> None:
    assert chosen(**grpo(8, perDeviceTrainBatchSize=8, gradientAccumulationSteps=4)).max_steps == 250


def test_vllm_takes_its_share_of_the_class() -> None:
    alone, beside = (
        chosen(**grpo(8, grpo=grpo(8)["training"]["grpo"] | {"fastInference": fast}), accelerator=offering(15))
        for fast in (False, True)
    )
    assert beside.per_device_train_batch_size < alone.per_device_train_batch_size


def test_the_answers_of_a_step_are_generated_at_once() -> None:
    def estimate(accumulation: int) -> float:
        spec = grpo(8, perDeviceTrainBatchSize=1, gradientAccumulationSteps=accumulation)
        spec["training"]["grpo"] |= {"maxCompletionLength": 4096}
        run = run_file(**spec, model={"maxSeqLength": 8192}, accelerator=offering(None))
        return size_run(run, SHAPE, DATA)[0].memory_gib

    key_and_value = 2 * 2 * 32 * 8 * 128  # bytes per token: 16 bits, 32 layers, 8 heads of 128
    tokens = DATA.longest + 4096
    assert estimate(64) - estimate(32) == pytest.approx(32 * tokens * key_and_value / GIB, rel=0.01)


def test_shrinking_keeps_the_effective_batch() -> None:
    numbers = chosen(model={"maxSeqLength": 2048}, accelerator=offering(139))
    cuts = [shrink(numbers, times) for times in range(4)]
    sizes = [(cut.per_device_train_batch_size, cut.gradient_accumulation_steps) for cut in cuts]
    assert sizes == [(8, 1), (4, 2), (2, 4), (1, 8)]
    with pytest.raises(TrainerError) as caught:
        shrink(numbers, 4)
    assert caught.value.code is ExitCode.DoesNotFit


@pytest.mark.parametrize(("gpus", "expected"), [(1, 8), (2, 8), (3, 6), (4, 8), (16, 16)])
def test_gpus_share_the_effective_batch(gpus: int, expected: int) -> None:
    micro_batch, accumulation = batch(parallelism={"gpus": gpus}, training={"packing": False})
    assert micro_batch * accumulation * gpus == expected


def test_nodes_share_like_gpus() -> None:
    spread = {"gpus": 2, "nodes": 4}
    for cpu in ({}, {"accelerator": {"kind": "CPU"}}):
        one_node = batch(parallelism={"gpus": 8}, training={"packing": False}, **cpu)
        assert batch(parallelism=spread, training={"packing": False}, **cpu) == one_node


def test_gpus_share_what_the_user_left_of_the_batch() -> None:
    alone = {"packing": False, "perDeviceTrainBatchSize": 1}
    assert batch(parallelism={"gpus": 2}, training=alone) == (1, 4)
    named = {"perDeviceTrainBatchSize": 4, "gradientAccumulationSteps": 4}
    assert batch(parallelism={"gpus": 2}, training=named) == (4, 4), "numbers that are named are per GPU"


def test_an_epoch_takes_fewer_steps_on_more_gpus() -> None:
    named = {"perDeviceTrainBatchSize": 2, "gradientAccumulationSteps": 1, "packing": False, "maxSteps": None}
    data = DataSize(lengths=100 * [300], tokens=30_000)
    cpu = {"kind": "CPU"}
    steps = [
        chosen(data=data, parallelism={"gpus": gpus}, training=named, accelerator=cpu).max_steps for gpus in (1, 2, 4)
    ]
    assert steps == [50, 25, 13]


def test_processes_share_the_memory_of_a_cpu_class() -> None:
    run = run_file(training={"maxSteps": 1}, accelerator={"kind": "CPU", "memoryGiB": 500}, parallelism={"gpus": 2})
    alone = run_file(training={"maxSteps": 1}, accelerator={"kind": "CPU", "memoryGiB": 500})
    shared, own = (size_run(each, SHAPE, DATA)[0].memory_gib for each in (run, alone))
    assert shared == pytest.approx(2 * own, abs=0.02)


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"maxSteps": 60}, 60),
        ({"maxSteps": None}, 125),
        ({"maxSteps": None, "numTrainEpochs": 3}, 375),
        ({"maxSteps": None, "numTrainEpochs": 0.001}, 1),
    ],
)
def test_steps_come_from_epochs_of_rows(training: dict[str, Any], steps: int) -> None:
    assert chosen(training=training | {"packing": False}).max_steps == steps


def test_steps_come_from_packed_sequences() -> None:
    numbers = chosen()
    assert numbers.packing
    assert numbers.max_steps == 84, "six rows of 300 tokens fill a sequence of 2048: 167 of them, at 2 a step"


@pytest.mark.parametrize(
    ("training", "save_steps"), [({"maxSteps": 600}, 30), ({"maxSteps": 4}, 1), ({"saveSteps": 7}, 7)]
)
def test_about_twenty_checkpoints(training: dict[str, Any], save_steps: int) -> None:
    assert chosen(training=training).save_steps == save_steps


def test_evaluations_during_training() -> None:
    assert chosen().eval_steps is None
    assert chosen(training={"evalSteps": 7}).eval_steps == 7
    assert chosen(training={"maxSteps": 200, "earlyStopping": {}}).eval_steps == 20
    assert chosen(training={"maxSteps": 4, "earlyStopping": {}}).eval_steps == 1
