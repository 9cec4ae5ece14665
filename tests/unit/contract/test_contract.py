"""What operator and trainer agree on: digests, outcomes, exit classes, batches, manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract import exits, run
from lora_trainer.contract.batch import halvings, shrunk_batch
from lora_trainer.contract.exits import ExitClass, ExitCode, exit_class
from lora_trainer.contract.layout import artifact_uri, checkpoints_uri, latest_uri, prepared_uri, rejected_uri
from lora_trainer.contract.manifest import SetManifest, parse_manifest
from lora_trainer.contract.outcome import (
    MAX_BYTES,
    MAX_SAMPLE,
    MAX_SENTENCE,
    Figures,
    LengthBucket,
    Outcome,
    PrepareResult,
    SetFigures,
    Unused,
    clip,
    clip_samples,
    decode_outcome,
    encode_outcome,
)
from lora_trainer.contract.run import RunFile, canonical_json, run_digest
from lora_trainer.contract.spec.evaluation import MAX_SETS

from tests.builders import a_resolved, a_run, an_artifact, an_evaluation, prepare_result, train_result
from tests.crd_case import edited

# --- run digest ---------------------------------------------------------------------------------------------------


def run_file(**edits: Any) -> RunFile:
    run = a_run()
    wire = a_resolved(run).run_file.wire()
    return RunFile.model_validate(edited(wire, {path.replace("__", "."): value for path, value in edits.items()}))


def digest(*, data: str = "d1", revision: str = "r1", **edits: Any) -> str:
    return run_digest(run_file(**edits), data_digest=data, model_revision=revision)


def test_another_recipe_is_another_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    monkeypatch.setattr(run, "RECIPE", run.RECIPE + 1)
    assert digest() != before


SHAPING = [
    {"model__name": "other/model"},
    {"model__maxSeqLength": 1024},
    {"model__quantization": "None"},
    {"model__dtype": "float16"},
    {"lora__r": 8},
    {"lora__loraAlpha": 32},
    {"lora__targetModules": ["q_proj"]},
    {"training__maxSteps": 10},
    {"training__learningRate": 1e-3},
    {"training__seed": 1},
    {"training__perDeviceTrainBatchSize": 2},
    {"training__sft": {"trainOn": "Everything"}},
    {"training__evalSteps": 5},
    {"training__earlyStopping": {"patience": 2}},
    {"parallelism__gpus": 2},
    {"parallelism__nodes": 2},
    {"dataset__format": "Messages"},
    {"dataset__chatTemplate": {"jinja": "{{ messages }}"}},
    {"dataset__chatTemplate": {"name": "chatml"}},
    {"dataset__chatTemplateKwargs": {"enable_thinking": False}},
    {"dataset__overlength": "Truncate"},
    {"evaluation__holdoutFraction": 0.1},
    {"evaluation__datasets": [{"name": "sums", "uri": "s3://team-a/sums.jsonl"}]},
    {"accelerator__kind": "CPU"},
]
NOT_SHAPING = [
    {"identity__name": "another"},
    {"identity__namespace": "team-b"},
    {"identity__uid": "u2"},
    {"output__uri": "s3://elsewhere/x"},
    {"storage__workUri": "s3://elsewhere/y"},
    {"storage__endpoint": "http://other:1"},
    {"dataset__uri": "s3://elsewhere/copy-of-the-rows.jsonl"},
    {"dataset__maxBadFraction": 0.05},
    {"dataset__samplesInStatus": 3},
    {"dataset__chatTemplateKwargs": {}},
    {"training__saveSteps": 7},
    {"training__saveMinutes": 7},
    {"training__saveTotalLimit": 9},
    {"huggingFace__tokenSecretRef": {"name": "hub", "key": "token"}},
    {"accelerator__memoryGiB": 24},
    {"model__revision": "main"},
    {"lora__loraAlpha": 16},
    {"evaluation__gates": [{"metric": "Loss", "max": 1.0}]},
]


@pytest.mark.parametrize("edit", SHAPING, ids=str)
def test_what_shapes_the_adapter_changes_its_name(edit: dict[str, Any]) -> None:
    assert digest(**edit) != digest()


@pytest.mark.parametrize("edit", NOT_SHAPING, ids=str)
def test_what_does_not_shape_the_adapter_leaves_its_name(edit: dict[str, Any]) -> None:
    assert digest(**edit) == digest()


def test_places_of_further_sets_do_not_shape_the_adapter() -> None:
    one, other, renamed = (
        digest(evaluation__datasets=[{"name": name, "uri": f"s3://team-a/{place}.jsonl"}])
        for name, place in (("sums", "one"), ("sums", "other"), ("codes", "one"))
    )
    assert one == other != renamed


def test_contents_of_data_and_model_shape_the_adapter() -> None:
    assert len({digest(), digest(data="d2"), digest(revision="r2")}) == 3


def test_a_digest_is_sha256_and_stable() -> None:
    assert digest() == digest()
    assert len(digest()) == 64
    assert int(digest(), 16) >= 0


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'.encode()


# --- outcome ------------------------------------------------------------------------------------------------------

SENTENCES = st.text(max_size=6000)


@given(message=SENTENCES, remedy=st.none() | SENTENCES, with_result=st.booleans())
def test_an_outcome_always_fits_the_termination_message(message: str, remedy: str | None, with_result: bool) -> None:
    result = prepare_result() if with_result else None
    text = encode_outcome(Outcome(reason="DatasetInvalid", message=message, remedy=remedy, result=result))
    assert len(text.encode()) <= MAX_BYTES
    decoded = decode_outcome(text)
    assert decoded is not None
    assert decoded.result == result, "there is room for the figures of a usual run"
    assert decoded.reason == "DatasetInvalid"


def with_data(samples: list[str], report: str) -> PrepareResult:
    result = prepare_result()
    buckets = tuple(LengthBucket(up_to=32 * 2**index, rows=10**9) for index in range(16))
    unused = tuple(Unused(name=f"{index}" + "\x01" * 59, rows=10**9) for index in range(8))
    shown = {"samples": tuple(samples), "report": report, "histogram": buckets, "unused": unused}
    return result.model_copy(update={"dataset": result.dataset.model_copy(update=shown)})


@given(samples=st.lists(st.text(max_size=MAX_SAMPLE), max_size=3), report=st.text(max_size=1500), message=SENTENCES)
def test_samples_give_way_before_sentences_and_figures(samples: list[str], report: str, message: str) -> None:
    result = with_data(samples, report)
    text = encode_outcome(Outcome(reason="Succeeded", message=message, result=result))
    assert len(text.encode()) <= MAX_BYTES
    decoded = decode_outcome(text)
    assert decoded is not None
    assert isinstance(decoded.result, PrepareResult)
    kept = {"digest", "rows", "kept", "dropped", "tokens", "lengths"}
    assert decoded.result.dataset.model_dump(include=kept) == result.dataset.model_dump(include=kept)
    if len(decoded.message) < min(len(message), MAX_SENTENCE):
        assert decoded.result.dataset.samples == ()


@given(message=SENTENCES, length=st.integers(0, 1100), sets=st.integers(1, MAX_SETS))
def test_figures_of_further_sets_give_way_before_those_of_the_adapter(message: str, length: int, sets: int) -> None:
    uri = "s3://" + "a" * length
    figures: dict[str, Any] = dict.fromkeys(Figures.model_fields, 1 / 3) | {"rows": 10_000, "answers": 1000}
    named = tuple(SetFigures(name=f"{number}" * 32, **figures) for number in range(sets))
    evaluation = an_evaluation().model_copy(update={"sets": named})
    result = train_result().model_copy(update={"evaluation": evaluation, "artifact": an_artifact(uri)})
    text = encode_outcome(Outcome(reason="Succeeded", message=message, result=result))
    assert len(text.encode()) <= MAX_BYTES
    decoded = decode_outcome(text)
    assert decoded is not None
    assert decoded.result in (result, result.model_copy(update={"evaluation": an_evaluation()}))


def test_what_a_newer_trainer_says_besides_is_left_out() -> None:
    words = {"reason": "Succeeded", "message": "Done.", "weather": "fine", "result": prepare_result().wire()}
    words["result"]["dataset"]["weather"] = "fine"
    decoded = decode_outcome(json.dumps(words))
    assert decoded == Outcome(reason="Succeeded", message="Done.", result=prepare_result())


def test_a_sample_is_cut_in_its_middle() -> None:
    assert clip_samples(("abcdefghij", "short"), 6) == ("ab…hij", "short")
    (cut,) = clip_samples(("ä" * 1000,), MAX_SAMPLE)
    assert len(cut) == MAX_SAMPLE


def test_an_outcome_that_is_all_figures_still_has_a_last_word() -> None:
    artifact = an_artifact("s3://bucket/" + "ü" * 5000)
    text = encode_outcome(Outcome(reason="Succeeded", message="Done.", result=prepare_result(artifact=artifact)))
    assert len(text.encode()) <= MAX_BYTES
    assert decode_outcome(text) == Outcome(reason="Succeeded", message="Done.")


@pytest.mark.parametrize("result", [prepare_result(), train_result(), None])
def test_an_outcome_is_read_back_as_it_was(result: Any) -> None:
    outcome = Outcome(reason="Succeeded", message="Done.", remedy="None.", step=3, from_step=1, result=result)
    assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize("text", ["", "Killed", "{", "[]", "null", '{"reason": 1}', '{"reason":"a"}', "\x00"])
def test_what_is_no_outcome_is_none(text: str) -> None:
    assert decode_outcome(text) is None


def test_a_torn_outcome_is_none() -> None:
    text = encode_outcome(Outcome(reason="Succeeded", message="Done.", result=train_result()))
    assert all(decode_outcome(text[:length]) is None for length in range(len(text)))


def test_a_long_sentence_ends_with_an_ellipsis() -> None:
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcd", 4) == "abcd"


# --- exit codes ---------------------------------------------------------------------------------------------------

CLASSES = [
    (0, ExitClass.DONE),
    (1, ExitClass.BUG),
    (2, ExitClass.BUG),
    (9, ExitClass.BUG),
    (10, ExitClass.USER_ERROR),
    (29, ExitClass.USER_ERROR),
    (30, ExitClass.OUT_OF_MEMORY),
    (31, ExitClass.BUG),
    (40, ExitClass.INTERRUPTED),
    (50, ExitClass.INFRASTRUCTURE),
    (59, ExitClass.INFRASTRUCTURE),
    (60, ExitClass.BUG),
    (126, ExitClass.BUG),
    (127, ExitClass.BUG),
    (128, ExitClass.BUG),
    (137, ExitClass.INFRASTRUCTURE),
    (143, ExitClass.INFRASTRUCTURE),
]


@pytest.mark.parametrize(("code", "kind"), CLASSES)
def test_every_exit_code_has_a_class(code: int, kind: ExitClass) -> None:
    assert exit_class(code) is kind


@given(st.integers(0, 255))
def test_no_exit_code_is_without_a_class_or_a_reason(code: int) -> None:
    assert isinstance(exit_class(code), ExitClass)
    assert exits.reason(code)[0].isupper()


def test_the_name_of_a_code_is_its_reason() -> None:
    assert exits.reason(ExitCode.DatasetInvalid) == "DatasetInvalid"
    assert exits.reason(137) == "Killed"
    assert exits.reason(77) == "InternalError"


# --- batches ------------------------------------------------------------------------------------------------------


@given(micro=st.integers(1, 4096), accumulation=st.integers(1, 64), times=st.integers(0, 14))
def test_a_shrunk_batch_keeps_the_rows_per_step(micro: int, accumulation: int, times: int) -> None:
    smaller, longer = shrunk_batch(micro, accumulation, times=times)
    assert smaller * longer == micro * accumulation
    assert 1 <= smaller <= max(micro >> times, 1)


@given(micro=st.integers(1, 4096), accumulation=st.integers(1, 64))
def test_as_many_halvings_as_there_are_end_at_one_row(micro: int, accumulation: int) -> None:
    assert shrunk_batch(micro, accumulation, times=halvings(micro))[0] == 1
    assert shrunk_batch(micro, accumulation, times=0) == (micro, accumulation)


# --- layout and manifests -----------------------------------------------------------------------------------------


def test_where_everything_stands_in_the_bucket() -> None:
    run = run_file(identity={"namespace": "ns", "name": "n", "uid": "u"}, output__uri="s3://bbb/out/")
    assert prepared_uri(run) == "s3://platform/runs/team-a/ns/n/u/prepared"
    assert checkpoints_uri(run) == "s3://platform/runs/team-a/ns/n/u/checkpoints"
    assert artifact_uri(run, "abc") == "s3://bbb/out/abc"
    assert rejected_uri(run, "abc") == "s3://bbb/out/rejected/abc"
    assert latest_uri(run) == "s3://bbb/out/latest.json"


def test_a_torn_or_foreign_manifest_does_not_exist() -> None:
    manifest = SetManifest(fingerprint="f", step=3, files=())
    data = manifest.model_dump_json(by_alias=True).encode()
    assert parse_manifest(SetManifest, data) == manifest
    assert parse_manifest(SetManifest, data[:-1]) is None
    assert parse_manifest(SetManifest, b"{}") is None
    assert parse_manifest(SetManifest, b'{"fingerprint":"f","files":[],"other":1}') is None


@pytest.mark.parametrize(
    ("kind", "asked", "effect"),
    [
        ("CPU", "Unsloth", "Disabled"),
        ("CPU", "Enabled", "Enabled"),
        ("GPU", "Unsloth", "Unsloth"),
        ("GPU", "Disabled", "Disabled"),
    ],
)
def test_gradient_checkpointing_takes_effect_where_it_frees_memory(kind: str, asked: str, effect: str) -> None:
    run = run_file(accelerator__kind=kind, lora__useGradientCheckpointing=asked)
    assert run.gradient_checkpointing == effect
