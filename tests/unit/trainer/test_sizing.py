"""What is chosen for a run, by table: what memory allows, and what the user leaves open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Loader
from lora_trainer.errors import TrainerError
from lora_trainer.memory import GIB, memory_bytes, needed_bytes
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize
from lora_trainer.sizing import size_run

from tests.support.runs import run_file
from tests.support.sizing import DATA, LLAMA_8B, SHAPE, batch, chosen, offering

FULL = DataSize(lengths=500 * [2048] + 500 * [1752], tokens=1_900_000)


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
        # Little memory: few tokens per pass, then more.
        (7.7, 2048, (1, 8, 0)),
        (8.2, 2048, (2, 4, 0)),
        (12, 2048, (8, 1, 1)),
        # Half as many tokens where that leaves memory for most layers: what is kept is not computed twice.
        (24, 2048, (2, 4, 27)),
        (40, 2048, (4, 2, 27)),
        (80, 2048, (8, 1, 30)),
        (80, 8192, (2, 4, 30)),
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
    ("gib", "asked", "decided", "why"),
    [
        (139, "Auto", "None", "quantization None: 16-bit weights fit the class's memory and reduce no other choice."),
        (40, "Auto", "NF4", "quantization NF4: 16-bit weights leave too little of 40 GiB."),
        (12, "Auto", "NF4", "quantization NF4: 16-bit weights leave too little of 12 GiB."),  # or do not fit at all
        (None, "Auto", "NF4", "quantization NF4: the class does not state its memory."),
        (139, "NF4", "NF4", None),
        (139, "None", "None", None),
    ],
)
def test_base_in_16_bits_where_it_costs_nothing_but_memory(
    gib: float | None, asked: str, decided: str, why: str | None
) -> None:
    model = {"maxSeqLength": 2048}
    numbers = chosen(accelerator=offering(gib), model=model | {"quantization": asked})
    assert numbers.quantization == decided
    assert numbers.reasons[0] == why or why is None
    packed = 0 if why is None else 1
    assert numbers.reasons[packed].startswith("packing on")
    in_either = chosen(accelerator=offering(gib), model=model | {"quantization": decided})
    assert numbers.model_copy(update={"reasons": ()}) == in_either.model_copy(update={"reasons": ()})


def test_weights_that_come_quantised_stay_so() -> None:
    shape = model_shape(LLAMA_8B | {"quantization_config": {"quant_method": "bitsandbytes"}})
    run = run_file(accelerator=offering(139), model={"quantization": "Auto"}, training={"maxSteps": None})
    numbers = size_run(run, shape, DATA)[1]
    assert (numbers.quantization, numbers.reasons[0]) == (
        "NF4",
        "quantization NF4: the model's weights are already quantised.",
    )


@pytest.mark.parametrize(("mode", "kept"), [("Unsloth", 32), ("Enabled", 0), ("Disabled", 32)])
def test_layers_are_kept_where_the_user_leaves_it_open(mode: str, kept: int) -> None:
    numbers = chosen(lora={"useGradientCheckpointing": mode}, model={"maxSeqLength": 2048}, accelerator=offering(139))
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


@pytest.mark.parametrize(("positions", "packed"), [(None, 2048), (1000, 512), (1024, 1024), (300, 512), (8192, 2048)])
def test_rows_are_not_packed_longer_than_the_model_knows(positions: int | None, packed: int) -> None:
    shape = replace(SHAPE, positions=positions)
    run = run_file(accelerator=offering(80), model={"maxSeqLength": 512})
    assert size_run(run, shape, DATA)[1].packing_length == packed


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"accelerator": {"kind": "GPU", "memoryGiB": 6}}, "for one row of 2048 tokens, but the class offers 6 GiB"),
        (
            {"accelerator": {"kind": "GPU", "memoryGiB": 16}, "training": {"perDeviceTrainBatchSize": 512}},
            "for 512 rows of 2048 tokens, but the class offers 16 GiB",
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
    assert estimate.per_device_train_batch_size == numbers.per_device_train_batch_size
    tokens = 2048 * estimate.per_device_train_batch_size
    with_8_bit_moments = memory_bytes(SHAPE, run, tokens=tokens, kept_layers=32, loader=numbers.loader)
    assert estimate.memory_gib == round((with_8_bit_moments + 6 * 41_943_040) / GIB, 2)


def test_what_a_cpu_cannot_do_is_replaced() -> None:
    numbers = chosen(accelerator={"kind": "CPU"}, training={"packing": True, "optim": "paged_adamw_8bit"})
    assert (numbers.packing, numbers.optim, numbers.dtype) == (False, "adamw_torch_fused", "bfloat16")


def test_what_the_user_names_stays() -> None:
    numbers = chosen(training={"packing": False, "optim": "adamw_torch"}, model={"dtype": "float16"})
    assert (numbers.packing, numbers.optim, numbers.dtype) == (False, "adamw_torch", "float16")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gemma2"}, "packing off: Unsloth does not keep packed rows apart in models of type gemma2."),
        (
            {"recurrent": True},
            "packing off: some layers would pass a state from one packed row to the next.",
        ),
    ],
)
def test_rows_that_would_influence_each_other_are_not_packed(fields: dict[str, Any], said: str) -> None:
    run = run_file(accelerator=offering(80), training={"packing": True})
    numbers = size_run(run, replace(SHAPE, **fields), DATA)[1]
    assert (numbers.packing, numbers.reasons[0]) == (False, said)


@pytest.mark.parametrize(
    ("data", "blocks", "packing", "loader"),
    [
        (DATA, {}, True, Loader.FAST_MODEL),
        (DATA, {"parallelism": {"gpus": 2}}, True, Loader.FAST_LANGUAGE_MODEL),
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
    on_gpu = blocks.get("accelerator", {}).get("kind") != "CPU"  # where Unsloth has one way only
    assert any(reason.startswith(f"loader {loader}: ") for reason in numbers.reasons) == on_gpu


def test_every_choice_says_why() -> None:
    assert chosen(accelerator=offering(24), model={"maxSeqLength": 2048}).reasons == (
        "packing on: rows have 300 tokens on average, sequences 2048.",
        "loader FastModel: it is the fastest for packed rows.",
        "micro-batch 2 x 2048 tokens, 27 of 32 layers kept: this needs 23.8 GiB of the class's 24 GiB.",
        "optim adamw_torch_fused: it is the fastest, and its 32-bit moments fit the class's memory.",
        "dataloaderWorkers 2: the GPU does not wait for batches.",
    )


@pytest.mark.parametrize(
    "blocks", [{"model": {"quantization": "Auto"}}, {"training": {"method": "DPO"}}, {"accelerator": {"kind": "CPU"}}]
)
def test_reasons_begin_with_the_name_of_what_was_chosen(blocks: dict[str, Any]) -> None:
    numbers = chosen(**blocks)
    shown = {"packing": "on" if numbers.packing else "off", "quantization": numbers.quantization}
    shown |= {"loader": numbers.loader, "optim": numbers.optim, "dataloaderWorkers": str(numbers.dataloader_workers)}
    shown |= {"micro-batch": str(numbers.per_device_train_batch_size)}
    told = dict(reason.split(":")[0].split(" ")[:2] for reason in numbers.reasons)
    assert told.items() <= shown.items()


@pytest.mark.parametrize(
    ("gib", "named", "optim", "why"),
    [
        (80, None, "adamw_torch_fused", ["it is the fastest, and its 32-bit moments fit the class's memory."]),
        (80, "adamw_8bit", "adamw_8bit", []),
        (7.7, None, "adamw_8bit", ["32-bit moments do not fit."]),
        (None, None, "adamw_8bit", ["the class does not state its memory."]),
    ],
)
def test_the_fastest_optimizer_where_there_is_room(
    gib: float | None, named: str | None, optim: str, why: list[str]
) -> None:
    numbers = chosen(accelerator=offering(gib), training={"maxSteps": None, "optim": named})
    assert numbers.optim == optim
    said = f"optim {optim}: "
    assert [reason.removeprefix(said) for reason in numbers.reasons if reason.startswith(said)] == why


@pytest.mark.parametrize(("method", "workers"), [("SFT", 2), ("DPO", 2)])
def test_batches_are_made_ready_beside_a_gpu(method: str, workers: int) -> None:
    assert chosen(training={"method": method}).dataloader_workers == workers
    assert chosen(training={"method": method}, accelerator={"kind": "CPU"}).dataloader_workers == 0
