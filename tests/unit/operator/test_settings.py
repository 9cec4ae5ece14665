"""Where each setting comes from, and what a class's defaults make of a run."""

from __future__ import annotations

from typing import Any

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_operator.api.conflicts import CONFLICTS, conflicts
from lora_operator.planning.gates import Block, accept
from lora_operator.planning.settings import settings
from lora_operator.workloads.resolved import ResolvedRun, config_map, read_config_map

from tests.builders import a_class, a_resolved, a_run, an_observation, prepared_text
from tests.unit.operator.simulation import PREPARE, preparing

DEFAULTS: dict[str, Any] = {
    "model": {"maxSeqLength": 4096},
    "lora": {"r": 8, "useRslora": True},
    "training": {"numTrainEpochs": 2, "weightDecay": 0.1, "earlyStopping": {"patience": 5, "minDelta": 0.1}},
    "evaluation": {"samples": 0},
}


def run_file_with(defaults: dict[str, Any], **spec: Any) -> ResolvedRun:
    return a_resolved(a_run(**spec), defaults=defaults)


def test_a_run_gets_what_its_class_sets_and_it_leaves_unset() -> None:
    run_file = run_file_with(DEFAULTS, lora={"r": 32}).run_file
    assert (run_file.lora.r, run_file.lora.use_rslora, run_file.lora.alpha) == (32, True, 32)
    assert (run_file.model.max_seq_length, run_file.evaluation.samples) == (4096, 0)
    assert (run_file.training.num_train_epochs, run_file.training.weight_decay) == (2, 0.1)


def test_a_run_that_says_how_long_it_trains_gets_no_other_length() -> None:
    training = run_file_with(DEFAULTS, training={"maxSteps": 10}).run_file.training
    assert (training.max_steps, training.num_train_epochs, training.weight_decay) == (10, None, 0.1)


def test_a_block_that_both_set_is_filled_field_by_field() -> None:
    stopping = run_file_with(DEFAULTS, training={"earlyStopping": {"patience": 2}}).run_file.training.early_stopping
    assert stopping is not None
    assert (stopping.patience, stopping.min_delta) == (2, 0.1)


def test_each_setting_has_one_source() -> None:
    run = a_run(lora={"r": 32}, training={"learningRate": 1e-4})
    told = settings(run, a_resolved(run, defaults=DEFAULTS), None)
    assert told.user == {"lora.r": "32", "training.learningRate": "0.0001"}
    assert told.class_ == {
        "model.maxSeqLength": "4096",
        "lora.useRslora": "true",
        "training.numTrainEpochs": "2.0",
        "training.weightDecay": "0.1",
        "training.earlyStopping.patience": "5",
        "training.earlyStopping.minDelta": "0.1",
        "evaluation.samples": "0",
    }
    assert told.default["lora.loraDropout"] == "0.0"
    assert told.default["lora.loraAlpha"] == "32"
    assert told.chosen == {}
    sources = [told.user, told.class_, told.chosen, told.default]
    names = [name for source in sources for name in source]
    assert len(names) == len(set(names))


def test_what_the_trainer_chose_is_told_after_prepare() -> None:
    world = preparing(training={"saveSteps": 7})
    before = world.run.status.settings
    assert before is not None
    assert (before.user, before.chosen) == ({"training.saveSteps": "7"}, {})
    world.end(PREPARE, 0, prepared_text(micro_batch=4))
    world.settle()
    told = world.run.status.settings
    assert told is not None
    assert told.chosen["training.perDeviceTrainBatchSize"] == "4"
    assert told.chosen["model.dtype"] == "bfloat16"
    assert "training.saveSteps" not in told.chosen
    assert told.default == before.default


LEAVES = {
    "lora": {"r": 4, "loraAlpha": 8, "loraDropout": 0.1, "bias": "all"},
    "model": {"maxSeqLength": 512, "dtype": "float16"},
    "training": {"maxSteps": 3, "seed": 1, "packing": True, "optim": "adamw_torch"},
    "evaluation": {"maxRows": 9, "holdoutFraction": 0.1},
}
PARTIAL = st.fixed_dictionaries(
    {},
    optional={
        block: st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in fields.items()})
        for block, fields in LEAVES.items()
    },
)


def paths(spec: dict[str, Any]) -> set[str]:
    return {f"{block}.{name}" for block, fields in spec.items() for name in fields}


@given(asked=PARTIAL, defaults=PARTIAL)
def test_any_mixture_of_user_and_class(asked: dict[str, Any], defaults: dict[str, Any]) -> None:
    run = a_run(**(asked | {"model": {"name": "a/b"} | asked.get("model", {})}))
    resolved = a_resolved(run, defaults=defaults)
    told = settings(run, resolved, None)
    assert set(told.user) == paths(asked)
    assert set(told.class_) == paths(defaults) - paths(asked)
    read_back = read_config_map(config_map(run, resolved))
    assert settings(run, read_back, None) == told, "also of what was fixed when the run began"


GRPO: dict[str, Any] = {"method": "GRPO", "grpo": {"rewards": [{"length": {"target": 9}}]}}
FAST_GRPO = {"method": "GRPO", "grpo": GRPO["grpo"] | {"fastInference": True, "maxLoraRank": 32}}
REFUSED = [
    (
        {"model": {"maxSeqLength": 512}},
        {"training": GRPO},
        "SettingsConflict",
        "maxPromptLength",
    ),
    ({"training": {"packing": True}}, {"training": {"method": "DPO"}}, None, ""),
    ({"training": {"earlyStopping": {}, "evalSteps": 5}}, {"training": GRPO}, None, ""),
    ({"lora": {"bias": "all"}}, {"training": FAST_GRPO}, "SettingsConflict", "lora.bias"),
    ({"lora": {"r": 64}}, {"training": FAST_GRPO}, "SettingsConflict", "maxLoraRank"),
    ({}, {"lora": {"r": 128}}, "PolicyViolation", "at most 64"),
]


@pytest.mark.parametrize(("defaults", "spec", "reason", "words"), REFUSED)
def test_what_comes_of_the_defaults_is_judged(
    defaults: dict[str, Any], spec: dict[str, Any], reason: str | None, words: str
) -> None:
    offered = a_class(defaults=defaults, limits={"r": 64})
    found = accept(an_observation(a_run(**spec), classes=(offered,)))
    if reason is None:
        assert isinstance(found, ResolvedRun)
    else:
        assert isinstance(found, Block)
        assert found.reason == reason
        assert words in found.message


def test_a_default_of_the_product_beyond_the_limit_is_refused_by_name() -> None:
    found = accept(an_observation(a_run(), classes=(a_class(limits={"r": 8}),)))
    assert isinstance(found, Block)
    assert "spec.lora.r is 16" in found.message
    assert isinstance(
        accept(an_observation(a_run(), classes=(a_class(limits={"r": 8}, defaults={"lora": {"r": 8}}),))), ResolvedRun
    )


ODD_GRPO = st.fixed_dictionaries(
    {"rewards": st.just(GRPO["grpo"]["rewards"])},
    optional={
        "maxPromptLength": st.sampled_from([8, 512, 600]),
        "maxCompletionLength": st.sampled_from([1, 256, 1000]),
        "maxLoraRank": st.sampled_from([8, 16, 64]),
        "fastInference": st.booleans(),
    },
)


@given(
    grpo=st.none() | ODD_GRPO,
    lora=st.fixed_dictionaries(
        {}, optional={"r": st.sampled_from([4, 16, 64]), "bias": st.sampled_from(["none", "all"])}
    ),
    length=st.sampled_from([512, 768, 2048]),
)
def test_the_operator_judges_a_resolved_run_as_the_api_server_would(
    grpo: dict[str, Any] | None, lora: dict[str, Any], length: int
) -> None:
    training = {"method": "GRPO", "grpo": grpo} if grpo else {}
    resolved = a_resolved(a_run(training=training, lora=lora, model={"name": "a/b", "maxSeqLength": length}))
    wire = resolved.run_file.wire()
    both = [conflict for conflict in CONFLICTS if conflict.holds is not None]
    by_server = [conflict.message for conflict in both if not cel.evaluate(conflict.cel, {"self": wire})]
    assert list(conflicts(resolved.run_file)) == by_server
