"""Predicted memory and chosen numbers, against a measured point and by table."""

from __future__ import annotations

from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen
from lora_trainer.errors import TrainerError
from lora_trainer.sizing import GIB, DataSize, memory_bytes, model_shape, shrink, size_run

from tests.support.runs import run_file

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
SHAPE = model_shape(LLAMA_8B)
DATA = DataSize(rows=1000, tokens=300_000, longest=600)


def chosen(*, data: DataSize = DATA, oom_shrinks: int = 0, **blocks: Any) -> Chosen:
    blocks = {"training": {"maxSteps": None}, "accelerator": {"kind": "GPU", "memoryGiB": 80}} | blocks
    return size_run(run_file(**blocks), SHAPE, data, oom_shrinks=oom_shrinks)[1]


def batch(**options: Any) -> tuple[int, int]:
    numbers = chosen(**options)
    return numbers.per_device_train_batch_size, numbers.gradient_accumulation_steps


def test_parameters_of_a_known_model() -> None:
    assert SHAPE.linear_parameters == 6_979_321_856
    assert SHAPE.lora_parameters(run_file(lora={"r": 16}).lora) == 41_943_040
    assert SHAPE.linear_parameters + SHAPE.embedding_parameters == pytest.approx(8.03e9, rel=0.001)


def test_memory_is_predicted_above_but_near_what_was_measured() -> None:
    """Allocated by torch on one H100: Llama-8B shape, NF4, r=16, 4 x 2048 tokens: 7.4 GiB; 35.7 unchecked."""
    gpu: dict[str, Any] = {"model": {"maxSeqLength": 2048}, "accelerator": {"kind": "GPU", "memoryGiB": 80}}
    run = run_file(**gpu)
    assert 7.4 < memory_bytes(SHAPE, run, micro_batch=4, row_tokens=2048) / GIB < 7.4 * 1.4
    unchecked = run_file(**gpu, lora={"useGradientCheckpointing": "disabled"})
    assert 35.7 < memory_bytes(SHAPE, unchecked, micro_batch=4, row_tokens=2048) / GIB < 35.7 * 1.15


def test_sixteen_bit_weights_take_four_times_as_much() -> None:
    four, sixteen = (
        memory_bytes(SHAPE, run_file(model={"loadIn4bit": flag}), micro_batch=1, row_tokens=1) for flag in (True, False)
    )
    assert (sixteen - four) / GIB == pytest.approx(1.05 * (2 - 0.5 - 1 / 64) * SHAPE.linear_parameters / GIB)


def test_nested_and_sparse_configurations() -> None:
    nested = model_shape({"architectures": ["x"], "text_config": LLAMA_8B})
    assert nested == SHAPE
    sparse = model_shape(LLAMA_8B | {"num_experts": 8, "moe_intermediate_size": 768})
    assert (sparse.experts, sparse.intermediate) == (8, 768)


def test_a_configuration_of_another_kind_names_what_is_missing() -> None:
    with pytest.raises(TrainerError) as caught:
        model_shape({"n_embd": 768, "vocab_size": 50257})
    assert caught.value.code is ExitCode.ModelUnsupported
    assert "hidden_size, num_hidden_layers, num_attention_heads" in caught.value.message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (8, 1)),
        ({"accelerator": {"kind": "GPU"}}, (8, 1)),
        ({"accelerator": {"kind": "GPU", "memoryGiB": 10}, "model": {"maxSeqLength": 4096}}, (1, 8)),
        ({"accelerator": {"kind": "CPU"}}, (1, 8)),
        ({"training": {"perDeviceTrainBatchSize": 4}}, (4, 2)),
        ({"training": {"perDeviceTrainBatchSize": 3}}, (3, 2)),
        ({"training": {"perDeviceTrainBatchSize": 16}}, (16, 1)),
        ({"training": {"gradientAccumulationSteps": 4}}, (2, 4)),
        ({"training": {"gradientAccumulationSteps": 32}}, (1, 32)),
        ({"training": {"perDeviceTrainBatchSize": 2, "gradientAccumulationSteps": 16}}, (2, 16)),
        ({"oom_shrinks": 1}, (4, 2)),
        ({"oom_shrinks": 3}, (1, 8)),
    ],
)
def test_micro_batch_and_accumulation(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert batch(**options) == expected


def test_nothing_is_left_to_shrink() -> None:
    with pytest.raises(TrainerError) as caught:
        batch(oom_shrinks=4)
    assert caught.value.code is ExitCode.DoesNotFit
    numbers = chosen(oom_shrinks=1)
    assert shrink(numbers, 2).gradient_accumulation_steps == 8
    with pytest.raises(TrainerError):
        shrink(numbers, 3)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"accelerator": {"kind": "GPU", "memoryGiB": 6}}, "for one row of 512 tokens, and the class offers 6 GiB"),
        (
            {"accelerator": {"kind": "GPU", "memoryGiB": 16}, "training": {"perDeviceTrainBatchSize": 512}},
            "for 512 rows of 512 tokens, and the class offers 16 GiB",
        ),
    ],
)
def test_a_run_that_does_not_fit_names_the_numbers(blocks: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainerError) as caught:
        chosen(**blocks)
    assert caught.value.code is ExitCode.DoesNotFit
    assert words in caught.value.message
    assert "model.maxSeqLength" in (caught.value.remedy or "")


def test_the_estimate_shows_what_was_chosen() -> None:
    run = run_file(accelerator={"kind": "GPU", "memoryGiB": 80})
    estimate, numbers = size_run(run, SHAPE, DATA)
    assert estimate.fits
    assert estimate.micro_batch == numbers.per_device_train_batch_size
    assert estimate.memory_gib == round(memory_bytes(SHAPE, run, micro_batch=8, row_tokens=512) / GIB, 2)


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
    assert numbers.max_steps == 74, "300 000 tokens are 586 sequences of 512, at 8 a step"


@pytest.mark.parametrize(
    ("training", "save_steps"), [({"maxSteps": 600}, 30), ({"maxSteps": 4}, 1), ({"saveSteps": 7}, 7)]
)
def test_about_twenty_checkpoints(training: dict[str, Any], save_steps: int) -> None:
    assert chosen(training=training).save_steps == save_steps


def test_what_a_cpu_cannot_do_is_replaced() -> None:
    numbers = chosen(accelerator={"kind": "CPU"}, training={"packing": True, "optim": "paged_adamw_8bit"})
    assert (numbers.packing, numbers.optim, numbers.dtype) == (False, "adamw_torch_fused", "bfloat16")


def test_what_the_user_names_stays() -> None:
    numbers = chosen(training={"packing": False, "optim": "adamw_torch"}, model={"dtype": "float16"})
    assert (numbers.packing, numbers.optim, numbers.dtype) == (False, "adamw_torch", "float16")
