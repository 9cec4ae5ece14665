"""Predicted memory, against measured points; and what a model's configuration tells of its shape."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Loader
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB, memory_bytes, needed_bytes, unpacked_bytes
from lora_trainer.model_shape import model_shape

from benchmarks.gpu import OURS
from benchmarks.vram import RESULTS, SHAPES, measured_bytes, read, read_point
from tests.support.runs import run_file
from tests.support.sizing import GPU, LLAMA_8B, SHAPE

WHOLE_RUNS = [entry for entry in json.loads((RESULTS.parent / "gpu.json").read_text())["rows"] if entry["row"] == OURS]


def test_parameters_of_a_known_model() -> None:
    assert SHAPE.linear_parameters == 6_979_321_856
    assert SHAPE.lora_parameters(run_file(lora={"r": 16}).lora) == 41_943_040
    assert SHAPE.linear_parameters + SHAPE.embedding_parameters == pytest.approx(8.03e9, rel=0.001)


def test_sixteen_bit_weights_take_four_times_as_much() -> None:
    four, sixteen = (
        memory_bytes(SHAPE, run_file(model={"quantization": asked}), tokens=1, kept_layers=0)
        for asked in ("NF4", "None")
    )
    unpacked = unpacked_bytes(SHAPE, load_in_4bit=True)
    assert sixteen - four == pytest.approx((2 - 0.5 - 1 / 64) * SHAPE.linear_parameters - unpacked)


def test_moments_in_32_bits_take_six_bytes_more() -> None:
    eight, thirty_two = (
        memory_bytes(SHAPE, run_file(accelerator=GPU, training={"optim": optim}), tokens=1, kept_layers=0)
        for optim in ("adamw_8bit", "adamw_torch")
    )
    assert thirty_two - eight == pytest.approx(6 * 41_943_040)


def test_memory_agrees_with_what_was_measured() -> None:
    """All points of benchmarks/results/vram.json, measured on a GPU through the trainer's own modules."""
    errors = [
        point.predicted_gib(model_shape(SHAPES[point.shape])) * GIB / measured_bytes(entry, point) - 1
        for entry in read(RESULTS)
        for point in [read_point(entry)]
    ]
    assert len(errors) == 51
    assert median(abs(error) for error in errors) < 0.01
    assert min(errors) > -0.03, "a run that is said to fit fits"
    assert max(errors) < 0.04


@pytest.mark.parametrize("entry", WHOLE_RUNS, ids=lambda entry: f"{entry['shape']} {entry['rows']}")
def test_whole_runs_stay_within_what_they_are_said_to_need(entry: dict[str, Any]) -> None:
    """Those of benchmarks/results/gpu.json, of which the card itself told the peak, all libraries included."""
    numbers, shape = entry["chosen"], model_shape(SHAPES[entry["shape"]])
    run = run_file(accelerator=GPU, model={"maxSeqLength": 2048}, training={"optim": numbers["optim"]})
    tokens, kept = 2048 * numbers["perDeviceTrainBatchSize"], numbers["keptLayers"]
    peak = memory_bytes(shape, run, tokens=tokens, kept_layers=kept, loader=Loader(numbers["loader"]))
    needed = needed_bytes(peak, run.accelerator.kind) / GIB
    assert entry["peak_gib"] < needed < 1.12 * entry["peak_gib"]


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


def test_useful_work_per_token() -> None:
    """8B in rows of 2048: 13 568 tokens/s were measured as 407 TFLOP/s on one H100, a count that another tool made."""
    work = SHAPE.flops_per_token(run_file(lora={"r": 16}).lora, row_tokens=2048)
    assert work == pytest.approx(407e12 / 13_568, rel=0.1)
    mixture = model_shape(LLAMA_8B | {"num_experts": 8})
    assert mixture.flops_per_token(run_file().lora, row_tokens=2048) is None
