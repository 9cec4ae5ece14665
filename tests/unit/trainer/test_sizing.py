"""Predicted memory and chosen numbers, against measured points and by table."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Chosen, Loader
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB, memory_bytes, needed_bytes, unpacked_bytes
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize
from lora_trainer.sizing import shrink, size_run

from benchmarks.gpu import OURS
from benchmarks.vram import RESULTS, SHAPES, measured_bytes, read, read_point
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
GPU = {"kind": "GPU", "memoryGiB": 80}
DATA = DataSize(rows=1000, tokens=300_000, longest=600)
WHOLE_RUNS = [entry for entry in json.loads((RESULTS.parent / "gpu.json").read_text())["rows"] if entry["row"] == OURS]


def chosen(*, data: DataSize = DATA, **blocks: Any) -> Chosen:
    blocks = {"training": {"maxSteps": None}, "accelerator": GPU} | blocks
    return size_run(run_file(**blocks), SHAPE, data)[1]


def offering(gib: float | None) -> dict[str, Any]:
    """An accelerator with so much memory."""
    return {"kind": "GPU"} | ({"memoryGiB": gib} if gib else {})


def batch(**options: Any) -> tuple[int, int]:
    numbers = chosen(**options)
    return numbers.per_device_train_batch_size, numbers.gradient_accumulation_steps


def test_parameters_of_a_known_model() -> None:
    assert SHAPE.linear_parameters == 6_979_321_856
    assert SHAPE.lora_parameters(run_file(lora={"r": 16}).lora) == 41_943_040
    assert SHAPE.linear_parameters + SHAPE.embedding_parameters == pytest.approx(8.03e9, rel=0.001)


def test_sixteen_bit_weights_take_four_times_as_much() -> None:
    four, sixteen = (
        memory_bytes(SHAPE, run_file(model={"loadIn4bit": flag}), tokens=1, kept_layers=0) for flag in (True, False)
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
    with pytest.raises(TrainerError, match="does not hold whole groups") as refused:
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


def test_a_pair_is_two_sequences() -> None:
    pairs, rows = (
        chosen(training={"method": method, "maxSteps": None, "packing": packing}, accelerator=offering(9))
        for method, packing in (("DPO", None), ("SFT", False))
    )
    assert pairs.per_device_train_batch_size == rows.per_device_train_batch_size
    assert pairs.kept_layers < rows.kept_layers
    assert pairs.learning_rate == 5e-6
    assert rows.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("gib", "length", "expected"),
    [
        # A class that names no memory: enough tokens, and every layer recomputed.
        (None, 2048, (4, 2, 0)),
        # Little memory: fewer tokens, then few layers, then more.
        (7.7, 2048, (1, 8, 0)),
        (8.2, 2048, (2, 4, 0)),
        (12, 2048, (4, 2, 3)),
        (24, 2048, (4, 2, 13)),
        (40, 2048, (4, 2, 27)),
        (80, 2048, (4, 2, 32)),
        (80, 8192, (1, 8, 32)),
        # Every layer kept: more tokens cost nothing but memory.
        (139, 2048, (8, 1, 32)),
        # Short rows are packed longer, with as many tokens per optimizer step.
        (80, 512, (2, 1, 32)),
    ],
)
def test_memory_decides_micro_batch_and_kept_layers(
    gib: float | None, length: int, expected: tuple[int, int, int]
) -> None:
    numbers = chosen(accelerator=offering(gib), model={"maxSeqLength": length})
    assert (*batch(accelerator=offering(gib), model={"maxSeqLength": length}), numbers.kept_layers) == expected


@pytest.mark.parametrize(
    ("gib", "asked", "in_4bit", "why"),
    [
        (139, "auto", False, "loadIn4bit false: the class's memory has room for 16-bit weights beside all else."),
        (40, "auto", True, "loadIn4bit true: 16-bit weights leave too little of 40 GiB."),
        (12, "auto", True, "loadIn4bit true: 16-bit weights leave too little of 12 GiB."),  # or do not fit at all
        (None, "auto", True, "loadIn4bit true: the class names no memory."),
        (139, True, True, None),
        (139, False, False, None),
    ],
)
def test_base_in_16_bits_where_it_costs_nothing_but_memory(
    gib: float | None, asked: bool | str, in_4bit: bool, why: str | None
) -> None:
    model = {"maxSeqLength": 2048}
    numbers = chosen(accelerator=offering(gib), model=model | {"loadIn4bit": asked})
    assert numbers.load_in_4bit is in_4bit
    assert numbers.reasons[0] == why or why is None
    packed = 0 if why is None else 1
    assert numbers.reasons[packed].startswith("packing on")
    in_either = chosen(accelerator=offering(gib), model=model | {"loadIn4bit": in_4bit})
    assert numbers.model_copy(update={"reasons": ()}) == in_either.model_copy(update={"reasons": ()})


def test_weights_that_come_quantised_stay_so() -> None:
    shape = model_shape(LLAMA_8B | {"quantization_config": {"quant_method": "bitsandbytes"}})
    run = run_file(accelerator=offering(139), model={"loadIn4bit": "auto"}, training={"maxSteps": None})
    numbers = size_run(run, shape, DATA)[1]
    assert (numbers.load_in_4bit, numbers.reasons[0]) == (True, "loadIn4bit true: the model's weights come quantised.")


@pytest.mark.parametrize(("mode", "kept"), [("unsloth", 32), ("enabled", 0), ("disabled", 32)])
def test_layers_are_kept_where_the_user_leaves_it_open(mode: str, kept: int) -> None:
    numbers = chosen(lora={"useGradientCheckpointing": mode}, model={"maxSeqLength": 2048})
    assert numbers.kept_layers == kept


@pytest.mark.parametrize("gib", [8, 10, 12, 16, 24, 40, 48, 80, 141])
def test_what_is_chosen_fits(gib: float) -> None:
    run = run_file(accelerator=offering(gib), model={"maxSeqLength": 1024}, training={"maxSteps": None})
    estimate, numbers = size_run(run, SHAPE, DATA)
    assert needed_bytes(estimate.memory_gib * GIB, run.accelerator.kind) / GIB <= gib + 0.01
    assert estimate.kept_layers == numbers.kept_layers


@pytest.mark.parametrize(("length", "packed"), [(100, 2100), (512, 2048), (2048, 2048), (4096, 4096)])
def test_short_rows_are_packed_longer(length: int, packed: int) -> None:
    assert chosen(model={"maxSeqLength": length}).packing_length == packed


def test_shrinking_keeps_the_effective_batch() -> None:
    numbers = chosen(model={"maxSeqLength": 2048}, accelerator=offering(139))
    cuts = [shrink(numbers, times) for times in range(4)]
    sizes = [(cut.per_device_train_batch_size, cut.gradient_accumulation_steps) for cut in cuts]
    assert sizes == [(8, 1), (4, 2), (2, 4), (1, 8)]
    with pytest.raises(TrainerError) as caught:
        shrink(numbers, 4)
    assert caught.value.code is ExitCode.DoesNotFit


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"accelerator": {"kind": "GPU", "memoryGiB": 6}}, "for one row of 2048 tokens, and the class offers 6 GiB"),
        (
            {"accelerator": {"kind": "GPU", "memoryGiB": 16}, "training": {"perDeviceTrainBatchSize": 512}},
            "for 512 rows of 2048 tokens, and the class offers 16 GiB",
        ),
    ],
)
def test_a_run_that_does_not_fit_names_the_numbers(blocks: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainerError) as caught:
        chosen(**blocks)
    assert caught.value.code is ExitCode.DoesNotFit
    assert words in caught.value.message
    assert "model.maxSeqLength" in (caught.value.remedy or "")
    assert f"about {caught.value.needed_memory_gib} GiB" in caught.value.message


def test_the_estimate_shows_what_was_chosen() -> None:
    run = run_file(accelerator={"kind": "GPU", "memoryGiB": 80})
    estimate, numbers = size_run(run, SHAPE, DATA)
    assert estimate.fits
    assert estimate.micro_batch == numbers.per_device_train_batch_size
    tokens = 2048 * estimate.micro_batch
    with_8_bit_moments = memory_bytes(SHAPE, run, tokens=tokens, kept_layers=32, loader=numbers.loader)
    assert estimate.memory_gib == round((with_8_bit_moments + 6 * 41_943_040) / GIB, 2)


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
    assert numbers.max_steps == 74, "300 000 tokens are 147 sequences of 2048, at 2 a step"


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


FULL = DataSize(rows=1000, tokens=1_900_000, longest=2048)


@pytest.mark.parametrize(
    ("data", "blocks", "packing", "loader"),
    [
        (DATA, {}, True, Loader.FAST_MODEL),
        (DATA, {"resources": {"gpus": 2}}, True, Loader.FAST_LANGUAGE_MODEL),
        (DATA, {"training": {"packing": False}}, False, Loader.FAST_LANGUAGE_MODEL),
        (DATA, {"training": {"method": "DPO"}}, False, Loader.FAST_LANGUAGE_MODEL),
        (DATA, {"accelerator": {"kind": "CPU"}}, False, Loader.FAST_LANGUAGE_MODEL),
        (FULL, {}, False, Loader.FAST_LANGUAGE_MODEL),
        (FULL, {"training": {"packing": True}}, True, Loader.FAST_MODEL),
    ],
)
def test_short_rows_are_packed_and_loaded_for_it(
    data: DataSize, blocks: dict[str, Any], packing: bool, loader: Loader
) -> None:
    numbers = chosen(data=data, model={"maxSeqLength": 2048}, **blocks)
    assert (numbers.packing, numbers.loader) == (packing, loader)
    assert numbers.reasons[0].startswith(f"packing {'on' if packing else 'off'}: ")
    assert any(loader in reason for reason in numbers.reasons) == packing


def test_every_choice_says_what_it_needs() -> None:
    assert chosen(accelerator=offering(24), model={"maxSeqLength": 2048}).reasons == (
        "packing on: rows have 300 tokens in the mean, sequences 2048.",
        "loader FastModel: it is the fastest for packed rows.",
        "micro-batch 4 x 2048 tokens, 13 of 32 layers kept: that needs 23.6 GiB of the class's 24 GiB.",
    )


@pytest.mark.parametrize(
    ("gib", "named", "optim"),
    [
        (80, None, "adamw_torch_fused"),
        (80, "adamw_8bit", "adamw_8bit"),
        (7.7, None, "adamw_8bit"),
        (None, None, "adamw_8bit"),
    ],
)
def test_the_fastest_optimizer_where_there_is_room(gib: float | None, named: str | None, optim: str) -> None:
    assert chosen(accelerator=offering(gib), training={"maxSteps": None, "optim": named}).optim == optim


@pytest.mark.parametrize(("method", "workers"), [("SFT", 2), ("DPO", 2)])
def test_batches_are_made_ready_beside_a_gpu(method: str, workers: int) -> None:
    assert chosen(training={"method": method}).dataloader_workers == workers
    assert chosen(training={"method": method}, accelerator={"kind": "CPU"}).dataloader_workers == 0


@pytest.mark.parametrize(("gpus", "expected"), [(1, 8), (2, 8), (3, 6), (4, 8), (16, 16)])
def test_gpus_share_the_effective_batch(gpus: int, expected: int) -> None:
    micro_batch, accumulation = batch(resources={"gpus": gpus}, training={"packing": False})
    assert micro_batch * accumulation * gpus == expected


def test_nodes_share_like_gpus() -> None:
    spread = {"gpus": 2, "nodes": 4}
    for cpu in ({}, {"accelerator": {"kind": "CPU"}}):
        one_node = batch(resources={"gpus": 8}, training={"packing": False}, **cpu)
        assert batch(resources=spread, training={"packing": False}, **cpu) == one_node


def test_gpus_share_what_the_user_left_of_the_batch() -> None:
    alone = {"packing": False, "perDeviceTrainBatchSize": 1}
    assert batch(resources={"gpus": 2}, training=alone) == (1, 4)
    named = {"perDeviceTrainBatchSize": 4, "gradientAccumulationSteps": 4}
    assert batch(resources={"gpus": 2}, training=named) == (4, 4), "numbers that are named are per GPU"


def test_an_epoch_takes_fewer_steps_on_more_gpus() -> None:
    named = {"perDeviceTrainBatchSize": 2, "gradientAccumulationSteps": 1, "packing": False, "maxSteps": None}
    data = DataSize(rows=100, tokens=30_000, longest=600)
    cpu = {"kind": "CPU"}
    steps = [
        chosen(data=data, resources={"gpus": gpus}, training=named, accelerator=cpu).max_steps for gpus in (1, 2, 4)
    ]
    assert steps == [50, 25, 13]


def test_processes_share_the_memory_of_a_cpu_class() -> None:
    run = run_file(training={"maxSteps": 1}, accelerator={"kind": "CPU", "memoryGiB": 500}, resources={"gpus": 2})
    alone = run_file(training={"maxSteps": 1}, accelerator={"kind": "CPU", "memoryGiB": 500})
    shared, own = (size_run(each, SHAPE, DATA)[0].memory_gib for each in (run, alone))
    assert shared == pytest.approx(2 * own, abs=0.02)


def test_evaluations_during_training() -> None:
    assert chosen().eval_steps is None
    assert chosen(training={"evalSteps": 7}).eval_steps == 7
    assert chosen(training={"maxSteps": 200, "earlyStopping": {}}).eval_steps == 20
    assert chosen(training={"maxSteps": 4, "earlyStopping": {}}).eval_steps == 1


def test_useful_work_per_token() -> None:
    """8B in rows of 2048: 13 568 tokens/s were measured as 407 TFLOP/s on one H100, a count that another tool made."""
    work = SHAPE.flops_per_token(run_file(lora={"r": 16}).lora, row_tokens=2048)
    assert work == pytest.approx(407e12 / 13_568, rel=0.1)
    mixture = model_shape(LLAMA_8B | {"num_experts": 8})
    assert mixture.flops_per_token(run_file().lora, row_tokens=2048) is None
