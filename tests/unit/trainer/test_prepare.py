"""prepare as a whole on local stores: what it leaves for train, and each kind of bad input's ending."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lora_trainer import storage
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import (
    DATA_REPORT,
    MANIFEST,
    SIGNATURE,
    artifact_uri,
    data_report_uri,
    latest_uri,
    rejected_uri,
)
from lora_trainer.contract.manifest import ArtifactManifest, Verification
from lora_trainer.contract.outcome import Artifact, Evaluation, Outcome, PrepareResult, encode_outcome
from lora_trainer.contract.run import RunFile
from lora_trainer.data.summary import DataReport
from lora_trainer.errors import TrainerError
from lora_trainer.prepare import prepare
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS, read_prepared
from lora_trainer.publishing.signing import read_signer
from lora_trainer.storage import open_bucket

from tests.support.keys import private_pem
from tests.support.prepare_world import CHATS, UNKNOWN_TOKENS, Rows, World, a_world, conversation
from tests.support.runs import run_file
from tests.support.stub_server import Answer, Request, stub_server
from tests.support.tiny_model import CHATML, CHATML_TOKENS, CONFIG, tiny_tokenizer, write_tiny_model


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(tmp_path, monkeypatch) as made:
        yield made


def texts(path: Path) -> set[str]:
    ids = pq.read_table(path)["input_ids"].to_pylist()
    return {tiny_tokenizer().decode(row, skip_special_tokens=False) for row in ids}


def test_the_prepared_set_is_whole(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"maxRows": 256, "holdoutFraction": 0.1})
    result = world.prepare_run(run)
    figures = result.dataset
    assert (figures.format, figures.rows, figures.kept, figures.held_out) == ("messages", 100, 90, 10)
    assert figures.dropped == ()
    assert 0 < figures.trained_token_share < 1
    assert result.artifact is None
    folder = world.fetched(run, tmp_path / "set")
    prepared = read_prepared(folder)
    assert prepared.result == result
    assert (prepared.eos_token_id, prepared.pad_token_id) == (2, 0)
    trained, held_out = texts(folder / TRAIN_ROWS), texts(folder / EVAL_ROWS)
    assert (len(trained), len(held_out)) == (90, 10)
    assert not trained & held_out
    (first, *_) = pq.read_table(folder / EVAL_ROWS).to_pylist()
    assert first["prompt"].startswith("question ")
    assert first["completion"].startswith("answer ")
    assert not any(first["completion_mask"][: first["prompt_length"]])
    assert first["completion_mask"][first["prompt_length"]] == 1


def preference(number: int) -> dict[str, Any]:
    question = [{"role": "user", "content": f"question {number}"}]
    answers = {"chosen": f"answer {number}", "rejected": "I do not know"}
    return {name: [*question, {"role": "assistant", "content": answer}] for name, answer in answers.items()}


def test_pairs_are_prepared_for_dpo(world: World, tmp_path: Path) -> None:
    world.write("data/train.jsonl", [preference(number) for number in range(40)])
    run = run_file(training={"method": "DPO"}, evaluation={"holdoutFraction": 0.1})
    result = world.prepare_run(run)
    assert (result.dataset.format, result.dataset.kept, result.dataset.held_out) == ("preference", 36, 4)
    assert result.chosen.learning_rate == 5e-6
    assert result.chosen.packing is False
    folder = world.fetched(run, tmp_path / "set")
    trained = pq.read_table(folder / TRAIN_ROWS)
    assert trained.column_names == ["prompt_ids", "chosen_ids", "rejected_ids"]
    (first, *_) = pq.read_table(folder / EVAL_ROWS).to_pylist()
    assert first["rejected"] == "I do not know"
    assert first["chosen"].startswith("answer ")
    assert tiny_tokenizer().decode(first["rejected_ids"]) == "I do not know"


def grpo(**settings: Any) -> dict[str, Any]:
    rewards = [{"numericAnswer": {}, "weight": 2}, {"length": {"target": 20}}]
    return {"method": "GRPO", "grpo": {"rewards": rewards, "maxPromptLength": 64, "numGenerations": 4} | settings}


def test_prompts_are_prepared_for_grpo(world: World, tmp_path: Path) -> None:
    world.write("data/train.jsonl", [{"prompt": f"{number} + 1", "answer": number + 1} for number in range(20)])
    run = run_file(training=grpo(), evaluation={"holdoutFraction": 0.1})
    result = world.prepare_run(run)
    assert (result.dataset.format, result.dataset.kept, result.dataset.held_out) == ("prompt", 18, 2)
    assert result.dataset.trained_token_share == 0
    chosen = result.chosen
    assert chosen.per_device_train_batch_size * chosen.gradient_accumulation_steps == 8
    assert chosen.max_steps == 4, "given in run_file"
    folder = world.fetched(run, tmp_path / "set")
    trained = pq.read_table(folder / TRAIN_ROWS)
    assert trained.column_names == ["prompt", "row"]
    for prompt, row in zip(trained["prompt"].to_pylist(), map(json.loads, trained["row"].to_pylist()), strict=True):
        assert prompt == f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        assert row["columns"] == {"answer": int(row["prompt"].removesuffix(" + 1")) + 1}
    (held_out, *_) = pq.read_table(folder / EVAL_ROWS).to_pylist()
    assert tiny_tokenizer().decode(held_out["prompt_ids"], skip_special_tokens=False) == held_out["prompt"]
    assert len(encode_outcome(Outcome(reason="Succeeded", message="Done.", result=result))) <= 4096


def test_a_prompt_that_is_too_long_names_the_field(world: World) -> None:
    world.write("data/train.jsonl", [{"prompt": "why? " * number, "answer": 1} for number in (1, 2, 90)])
    with pytest.raises(
        TrainerError, match=r"1 of 3 rows are longer than training\.grpo\.maxPromptLength 64"
    ) as refused:
        world.prepare(training=grpo(), dataset={"overlength": "fail"})
    assert "truncate" not in (refused.value.remedy or "")


def test_a_prompt_without_its_reference_is_named_by_file_and_line(world: World) -> None:
    world.write("data/train.jsonl", [{"prompt": "1 + 1", "answer": 2}, {"prompt": "2 + 2"}])
    with pytest.raises(TrainerError, match=r"train\.jsonl:2: the column answer is missing"):
        world.prepare(training=grpo())


def test_a_bad_pair_is_named_by_file_and_line(world: World) -> None:
    world.write("data/train.jsonl", [preference(0), {"chosen": "a", "rejected": 3}])
    with pytest.raises(TrainerError, match=r"train\.jsonl:2: the column rejected is a number") as refused:
        world.prepare(training={"method": "DPO"})
    assert refused.value.code == ExitCode.DatasetInvalid


def test_the_result_fits_the_termination_message(world: World) -> None:
    result = world.prepare()
    assert len(encode_outcome(Outcome(reason="Succeeded", message="Done.", result=result))) <= 4096


def test_the_same_input_has_the_same_digest_and_other_input_another(world: World) -> None:
    first = world.prepare()
    assert world.prepare().run_digest == first.run_digest
    assert world.prepare(identity={"uid": "another"}).run_digest == first.run_digest
    assert world.prepare(training={"learningRate": 1e-4}).run_digest != first.run_digest
    world.write("data/train.jsonl", CHATS[:-1])
    changed = world.prepare()
    assert changed.dataset.digest != first.dataset.digest
    assert changed.run_digest != first.run_digest


def with_template(**template: str) -> dict[str, Any]:
    return {"dataset": {"chatTemplate": template}}


def test_a_changed_chat_template_changes_the_rows(world: World) -> None:
    assert (
        world.prepare().dataset.digest
        != world.prepare(dataset={"chatTemplate": {"jinja": "Hi. " + CHATML}}).dataset.digest
    )


def test_a_named_template_is_taken_from_the_file_of_the_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    chatml = with_template(name="chatml")
    assert world.prepare(**chatml).dataset.samples[0].startswith("chatml: <|im_start|>user")
    monkeypatch.setenv("LORA_CHAT_TEMPLATES", "/nowhere/chat_templates.json")
    with pytest.raises(TrainerError, match="cannot read Unsloth's chat templates") as caught:
        world.prepare(**chatml)
    assert caught.value.code is ExitCode.ConfigInvalid


def test_duplicates_are_trained_on_and_never_held_out(world: World, tmp_path: Path) -> None:
    world.write("data/train.jsonl", CHATS[:10] + CHATS[:9])
    run = run_file(evaluation={"holdoutFraction": 0.5})
    result = world.prepare_run(run)
    assert (result.dataset.duplicates, result.dataset.kept, result.dataset.held_out) == (9, 18, 1)
    (held_out,) = texts(world.fetched(run, tmp_path / "set") / EVAL_ROWS)
    assert "question 9" in held_out


def test_an_evaluation_set_of_its_own(world: World) -> None:
    world.write("data/eval.jsonl", [conversation(number) for number in range(95, 105)])
    result = world.prepare(evaluation={"datasetUri": "s3://team-a/data/eval.jsonl", "maxRows": 256})
    assert (result.dataset.kept, result.dataset.held_out) == (95, 10)
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("InEvaluationSet", 5)]


BAD = CHATS[:30] + [{"text": "t"}] * 2


def report(world: World) -> DataReport:
    (path,) = (world.root / "work").rglob(DATA_REPORT)
    return DataReport.model_validate_json(path.read_bytes())


def test_allowed_bad_rows_are_left_out_and_reported(world: World) -> None:
    world.write("data/train.jsonl", BAD)
    result = world.prepare(dataset={"maxBadPercent": 10})
    assert (result.dataset.rows, result.dataset.kept, result.dataset.held_out) == (32, 28, 2)
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("BadRow", 2)]
    assert [row.where for row in report(world).train.bad_rows] == ["train.jsonl:31", "train.jsonl:32"]


def test_truncated_rows_are_counted(world: World) -> None:
    world.write("data/train.jsonl", [*CHATS, conversation("long " * 200)])
    figures = world.prepare(dataset={"overlength": "truncate"}, evaluation={"maxRows": 1}).dataset
    assert figures.truncated == 1
    assert [(each.reason, each.rows) for each in figures.dropped] == [("NothingToTrain", 1)]


def test_bad_rows_that_fail_the_run_are_reported_too(world: World) -> None:
    world.write("data/train.jsonl", BAD)
    with pytest.raises(TrainerError, match=r"^2 of 32 rows .* allows 5 %: train.jsonl:31: the column") as caught:
        world.prepare(dataset={"maxBadPercent": 5})
    (path,) = (world.root / "work").rglob(DATA_REPORT)
    assert f"s3://team-a/{path.relative_to(world.root)}" in (caught.value.remedy or "")
    assert (report(world).train.rows, len(report(world).train.bad_rows)) == (32, 2)


def test_the_report_shows_the_rows_as_the_model_sees_them(world: World) -> None:
    result = world.prepare()
    told = report(world)
    first = "<|im_start|>user\nquestion 0<|im_end|>\n<|im_start|>assistant\n⟦answer 0<|im_end|>⟧\n"
    assert told.train.samples[0] == result.dataset.samples[0] == first
    assert len(told.train.samples) == 3
    assert sum(bucket.rows for bucket in told.train.histogram) == 100
    assert told.train.histogram == result.dataset.histogram
    assert (told.evaluation, told.held_out, told.train.kept) == (None, 5, 95)
    assert result.dataset.report == data_report_uri(run_file())


def test_prompts_on_both_sides_are_counted_and_copies_left_out(world: World) -> None:
    other_answer = {"messages": [conversation(7)["messages"][0], {"role": "assistant", "content": "else"}]}
    world.write("data/eval.jsonl", [conversation(5), other_answer])
    result = world.prepare(evaluation={"datasetUri": "s3://team-a/data/eval.jsonl"})
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("InEvaluationSet", 1)]
    assert result.dataset.leaked_prompts == 1
    assert report(world).evaluation


def sources(*named: dict[str, Any]) -> dict[str, Any]:
    return {"uri": None, "sources": [each | {"uri": f"s3://team-a/{each['uri']}"} for each in named]}


def test_several_sources_with_formats_and_weights_of_their_own(world: World, tmp_path: Path) -> None:
    world.write("data/pairs/train.jsonl", [{"q": f"pair {number}", "a": f"reply {number}"} for number in range(40)])
    pairs = {"uri": "data/pairs", "weight": 0.5, "columns": {"prompt": "q", "completion": "a"}}
    run = run_file(dataset=sources({"uri": "data/train.jsonl", "weight": 2}, pairs), evaluation={"maxRows": 10})
    result = world.prepare_run(run)
    assert result.dataset.format == "messages, promptCompletion"
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("NotDrawn", 20)]
    folder = world.fetched(run, tmp_path / "set")
    trained = [tiny_tokenizer().decode(ids) for ids in pq.read_table(folder / TRAIN_ROWS)["input_ids"].to_pylist()]
    assert len(trained) == result.dataset.kept
    counts = Counter(trained)
    assert {count for text, count in counts.items() if "question" in text} == {2}
    assert {count for text, count in counts.items() if "pair" in text} == {1}
    first, second = report(world).train.sources
    assert (first.rows, second.rows) == (100, 40)
    assert first.used + second.used == result.dataset.kept
    held_out_of_pairs = sum("pair" in text for text in texts(folder / EVAL_ROWS))
    assert second.used == 20 - held_out_of_pairs


def test_the_number_of_the_source_stands_before_its_files(world: World) -> None:
    world.write("other/train.jsonl", '{"text": "a"}\n{oops\n')
    with pytest.raises(TrainerError, match=r"1 of 102 rows .*: sources\[1\] train.jsonl:2: not JSON"):
        world.prepare(dataset=sources({"uri": "data/train.jsonl"}, {"uri": "other/train.jsonl"}))


def test_the_same_rows_have_the_same_digest_wherever_they_come_from(world: World) -> None:
    world.write("data/a.jsonl", CHATS[:60])
    world.write("data/b.jsonl", CHATS[60:])
    both = world.prepare(dataset=sources({"uri": "data/a.jsonl"}, {"uri": "data/b.jsonl"}))
    assert both.run_digest == world.prepare().run_digest


def test_text_rows_need_no_template(world: World) -> None:
    write_tiny_model(world.root / "models/smollm2", template="{{ broken")
    world.write("data/train.jsonl", [{"text": f"text {number}"} for number in range(10)])
    assert world.prepare().dataset.format == "text"


def test_nothing_is_left_beside_the_set(world: World) -> None:
    run = run_file()
    world.prepare_run(run)
    left = {path.relative_to(world.root).parts[0] for path in world.root.rglob("*") if path.is_file()}
    assert left == {"models", "data", "work"}, "the probe of the output folder is gone"


def publish_adapter(
    world: World, run: RunFile, result: PrepareResult, *, folder_of: Callable[[RunFile, str], str] = artifact_uri
) -> ArtifactManifest:
    folder = world.scratch / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    figures = Evaluation(rows=8, base_loss=2.5, loss=0.5, base_token_accuracy=0.5, token_accuracy=0.8)

    def manifest(files: tuple) -> ArtifactManifest:
        return ArtifactManifest(
            run_digest=result.run_digest,
            base_model=run.model.name,
            model=result.model,
            data_digest=result.dataset.digest,
            steps=4,
            evaluation=figures,
            verification=Verification(files=1, max_logit_difference=1.0, generated_tokens=8),
            versions={},
            files=files,
        )

    data = world.bucket.publish_set(folder, folder_of(run, result.run_digest), manifest=manifest)
    return ArtifactManifest.model_validate_json(data)


def test_a_published_adapter_of_the_same_run_is_found(world: World) -> None:
    run = run_file()
    first = world.prepare_run(run)
    manifest = publish_adapter(world, run, first)
    found = world.prepare_run(run)
    assert found.artifact
    uri = artifact_uri(run, first.run_digest)
    assert (found.artifact.uri, found.artifact.size_bytes) == (uri, len(b"weights"))
    assert found.artifact.digest == hashlib.sha256(world.bucket.read(f"{uri}/manifest.json")).hexdigest()
    assert found.evaluation == manifest.evaluation


def test_an_adapter_with_a_missing_file_is_trained_again(world: World) -> None:
    run = run_file()
    first = world.prepare_run(run)
    publish_adapter(world, run, first)
    world.bucket.delete(f"{artifact_uri(run, first.run_digest)}/adapter_model.safetensors")
    assert world.prepare_run(run).artifact is None


def test_a_published_adapter_that_misses_the_gate_of_today_fails_the_run(world: World) -> None:
    first = world.prepare()
    manifest = publish_adapter(world, run_file(), first)
    strict = run_file(evaluation={"gate": {"maxEvalLoss": 0.4}})
    with pytest.raises(TrainerError, match=r"held-out loss 0\.5000 is above maxEvalLoss 0\.4") as ended:
        world.prepare_run(strict)
    assert ended.value.code == ExitCode.QualityGateFailed
    assert isinstance(ended.value.result, PrepareResult)
    assert ended.value.result.evaluation == manifest.evaluation
    assert ended.value.result.artifact
    assert ended.value.result.artifact.uri == artifact_uri(strict, first.run_digest)


def test_a_rejected_adapter_is_not_trained_again_while_it_misses_the_gate(world: World) -> None:
    strict = run_file(evaluation={"gate": {"minTokenAccuracy": 0.9}})
    first = world.prepare_run(strict)
    publish_adapter(world, strict, first, folder_of=rejected_uri)
    with pytest.raises(TrainerError, match=r"token accuracy 0\.8000 is below") as ended:
        world.prepare_run(strict)
    assert ended.value.code == ExitCode.QualityGateFailed
    assert rejected_uri(strict, first.run_digest) in ended.value.message
    assert not world.bucket.exists(latest_uri(strict))


def test_a_rejected_adapter_is_published_by_a_run_with_a_gate_that_it_passes(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"gate": {"minTokenAccuracy": 0.7}})
    first = world.prepare_run(run)
    manifest = publish_adapter(world, run, first, folder_of=rejected_uri)
    found = world.prepare_run(run)
    uri = artifact_uri(run, first.run_digest)
    assert found.artifact
    assert found.artifact.uri == uri
    assert world.bucket.read_manifest(uri, ArtifactManifest) == manifest
    world.bucket.fetch_files(manifest.files, uri, tmp_path / "fetched")
    assert Artifact.model_validate_json(world.bucket.read(latest_uri(run))) == found.artifact
    assert world.prepare_run(run).artifact == found.artifact


def test_an_adapter_without_a_wanted_format_is_made_again(world: World) -> None:
    first = world.prepare()
    publish_adapter(world, run_file(), first)
    assert world.prepare().artifact
    assert world.prepare(output={"formats": ["adapter", "merged16bit"]}).artifact is None


def test_a_model_that_is_quantised_already_cannot_be_merged(world: World) -> None:
    model(config=CONFIG | {"quantization_config": {"quant_method": "bitsandbytes"}})(world)
    with pytest.raises(TrainerError, match=r"output\.formats asks for gguf/q8_0, .* has no 16-bit weights") as ended:
        world.prepare(output={"formats": ["gguf"]})
    assert ended.value.code == ExitCode.ConfigInvalid


SIGNING = {"signing": {"keySecretRef": {"name": "signing"}}}


def test_an_adapter_counts_as_signed_only_by_the_runs_own_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_file(output=SIGNING)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, private_pem(1).decode())
    first = world.prepare_run(run)
    publish_adapter(world, run, first)
    uri = artifact_uri(run, first.run_digest)
    assert world.prepare_run(run).artifact is None, "it is not signed"
    assert world.prepare().artifact, "who wants no signature needs none"
    signer = read_signer(run, private_pem(2).decode())
    assert signer
    world.bucket.write(f"{uri}/{SIGNATURE}", signer.sign(world.bucket.read(f"{uri}/{MANIFEST}")))
    assert world.prepare_run(run).artifact is None, "another key signed it"
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, private_pem(2).decode())
    assert world.prepare_run(run).artifact


def test_a_signing_key_that_is_none_is_told_before_anything_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "not a key")
    with pytest.raises(TrainerError, match=r"output\.signing: key 'private\.pem' of Secret 'signing'"):
        world.prepare(output=SIGNING)


def test_prompts_of_ones_own_go_with_the_prepared_set(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"prompts": ["What is one?", "What is two?"]})
    world.prepare_run(run)
    prepared = read_prepared(world.fetched(run, tmp_path / "set"))
    assert [prompt.text for prompt in prepared.prompts] == ["What is one?", "What is two?"]
    asked = tiny_tokenizer().decode(prepared.prompts[0].input_ids, skip_special_tokens=False)
    assert asked == "<|im_start|>user\nWhat is one?<|im_end|>\n<|im_start|>assistant\n"


def rows(contents: Rows | str) -> Callable[[World], None]:
    return lambda world: world.write("data/train.jsonl", contents)


def model(**options: Any) -> Callable[[World], object]:
    def change(world: World) -> None:
        folder = world.root / "models/smollm2"
        (folder / "chat_template.jinja").unlink()
        write_tiny_model(folder, **options)

    return change


def larger_tokenizer(world: World) -> None:
    more = (f"<|more_{number}|>" for number in range(47))
    tiny_tokenizer(special=(*CHATML_TOKENS, *more)).save(str(world.root / "models/smollm2/tokenizer.json"))


def nothing(_: World) -> None:
    """The run file alone is what is wrong."""


LONG = [{"text": "a" * 600}, {"text": "a" * 900}]
CUT_AWAY = [{"prompt": "q" * 40 + str(number), "completion": "a"} for number in range(5)]


@pytest.mark.parametrize(
    ("change", "blocks", "code", "words"),
    [
        (nothing, {"dataset": {"uri": "s3://team-a/no.jsonl"}}, ExitCode.DatasetNotFound, "no data set at s3://team-a/no"),
        (nothing, {"dataset": {"uri": "pvc://claim/no"}}, ExitCode.DatasetNotFound, "pvc://claim/no"),
        (rows(""), {}, ExitCode.DatasetInvalid, "has no rows"),
        (rows('{"text": "a"}\n{oops\n'), {}, ExitCode.DatasetInvalid, "train.jsonl:2: not JSON"),
        (rows([{"question": "q", "sql": "s"}]), {}, ExitCode.DatasetInvalid, "found question, sql"),
        (rows([*CHATS[:3], {"text": "t"}]), {}, ExitCode.DatasetInvalid, "train.jsonl:4: the column messages is"),
        (rows(LONG), {}, ExitCode.DatasetInvalid, "longer than model.maxSeqLength 512; the shortest"),
        (rows([*CHATS, conversation(7 * "long " * 200)]), {"dataset": {"overlength": "fail", "maxBadPercent": 50}},
         ExitCode.DatasetInvalid, "1 of 101 rows are longer than model.maxSeqLength 512: train.jsonl:101: has"),
        (rows([{"messages": 1}] * 5), {"dataset": {"maxBadPercent": 100}}, ExitCode.DatasetInvalid,
         "No row of s3://team-a/data/train.jsonl is left: 5 of 5 cannot be used: train.jsonl:1: messages is a number"),
        (rows([conversation(1) | {"messages": [{"role": "assistant", "content": ""}]}]), {}, ExitCode.DatasetInvalid,
         "no row of s3://team-a/data/train.jsonl has a token that counts"),
        (rows(CUT_AWAY), {"model": {"maxSeqLength": 32}, "dataset": {"overlength": "truncate"}},
         ExitCode.DatasetInvalid,
         "NothingToTrain: 5 of 5"),
        (rows(CHATS[:1]), {}, ExitCode.DatasetInvalid, "No row can be held out"),
        (rows([CHATS[0]] * 5), {}, ExitCode.DatasetInvalid, "5 rows, 4 of them repeated"),
        (nothing, {"evaluation": {"datasetUri": "s3://team-a/data/train.jsonl"}}, ExitCode.DatasetInvalid,
         "Every row of the data set is in the evaluation set"),
        (nothing, {"evaluation": {"datasetUri": "s3://team-a/no.jsonl"}}, ExitCode.DatasetNotFound, "s3://team-a/no.jsonl"),
        (model(template=None), {}, ExitCode.ChatTemplateInvalid, "has no chat template"),
        (model(template=UNKNOWN_TOKENS), {}, ExitCode.ChatTemplateInvalid, "writes <|start_header_id|>, which"),
        (nothing, with_template(jinja=UNKNOWN_TOKENS), ExitCode.ChatTemplateInvalid, "<|start_header_id|>"),
        (nothing, with_template(jinja="{% if %}"), ExitCode.ChatTemplateInvalid, "does not compile"),
        (nothing, with_template(name="llama-3"), ExitCode.ChatTemplateInvalid, "<|start_header_id|>"),
        (nothing, with_template(name="zephyr"), ExitCode.ConfigInvalid, "no chat template 'zephyr'"),
        (nothing, {"model": {"name": "s3://team-a/models/none"}}, ExitCode.ModelNotFound, "s3://team-a/models/none"),
        (nothing, {"model": {"name": "s3://team-a/data"}}, ExitCode.ModelUnsupported, "no config.json"),
        (model(config=CONFIG | {"hidden_size": None}), {}, ExitCode.ModelUnsupported, "no hidden_size"),
        (nothing, {"lora": {"targetModules": ["q_proj", "x_proj"]}}, ExitCode.ConfigInvalid, "names x_proj, which"),
        (larger_tokenizer, {}, ExitCode.ModelUnsupported, "knows 306 tokens and its weights 300"),
        (nothing, {"accelerator": {"kind": "GPU", "memoryGiB": 1}}, ExitCode.DoesNotFit, "the class offers 1 GiB"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_a_remedy(
    world: World, change: Callable[[World], object], blocks: dict[str, Any], code: ExitCode, words: str
) -> None:
    change(world)
    with pytest.raises(TrainerError) as caught:
        world.prepare(**blocks)
    assert caught.value.code is code
    assert words.lower() in caught.value.message.lower()
    assert caught.value.remedy
    assert not (world.root / "work").exists() or not any((world.root / "work").rglob("manifest.json"))


def test_a_bucket_that_may_not_be_written_is_found_first(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=0.3))
    seen: list[Request] = []

    def read_only(request: Request) -> Answer:
        seen.append(request)
        return Answer(status=403, body=b"<Error><Code>AccessDenied</Code></Error>")

    with stub_server(read_only) as endpoint:
        run = run_file(endpoint=endpoint)
        with pytest.raises(TrainerError) as caught:
            prepare(run, bucket=open_bucket(run.storage), progress=world.progress, scratch=tmp_path)
    assert caught.value.code is ExitCode.StorageDenied
    assert "refused to write s3://team-a/work" in caught.value.message
    assert [request.method for request in seen] == ["PUT"]
