"""prepare as a whole on local stores: what it leaves for train."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import DATA_REPORT, data_report_uri
from lora_trainer.contract.outcome import Outcome, encode_outcome
from lora_trainer.data.summary import DataReport
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS, read_prepared, set_rows

from tests.support.prepare_world import CHATS, World, conversation, with_template
from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer, write_tiny_model


def texts(path: Path) -> set[str]:
    ids = pq.read_table(path)["input_ids"].to_pylist()
    return {tiny_tokenizer().decode(row, skip_special_tokens=False) for row in ids}


def test_the_prepared_set_is_whole(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"maxRows": 256, "holdoutFraction": 0.1})
    result = world.prepare_run(run)
    figures = result.dataset
    assert (figures.format, figures.rows, figures.kept, figures.held_out) == ("Messages", 100, 90, 10)
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
    assert (result.dataset.format, result.dataset.kept, result.dataset.held_out) == ("Preference", 36, 4)
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
    assert (result.dataset.format, result.dataset.kept, result.dataset.held_out) == ("Prompt", 18, 2)
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
        world.prepare(training=grpo(), dataset={"overlength": "Fail"})
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


def test_a_changed_chat_template_changes_the_rows(world: World) -> None:
    assert (
        world.prepare().dataset.digest
        != world.prepare(dataset={"chatTemplate": {"jinja": "Hi. " + CHATML}}).dataset.digest
    )


def test_a_named_template_is_taken_from_the_file_of_the_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    chatml = with_template(name="chatml")
    world.prepare(**chatml)
    assert report(world).train.samples[0].startswith("chatml: <|im_start|>user")
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
    result = world.prepare(evaluation={"dataset": {"uri": "s3://team-a/data/eval.jsonl"}, "maxRows": 256})
    assert (result.dataset.kept, result.dataset.held_out) == (95, 10)
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("InEvaluationSet", 5)]


BAD = CHATS[:30] + [{"text": "t"}] * 2


def report(world: World) -> DataReport:
    (path,) = (world.root / "work").rglob(DATA_REPORT)
    return DataReport.model_validate_json(path.read_bytes())


def test_allowed_bad_rows_are_left_out_and_reported(world: World) -> None:
    world.write("data/train.jsonl", BAD)
    result = world.prepare(dataset={"maxBadFraction": 0.1})
    assert (result.dataset.rows, result.dataset.kept, result.dataset.held_out) == (32, 28, 2)
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("BadRow", 2)]
    assert [row.where for row in report(world).train.bad_rows] == ["train.jsonl:31", "train.jsonl:32"]


def test_truncated_rows_are_counted(world: World) -> None:
    world.write("data/train.jsonl", [*CHATS, conversation("long " * 200)])
    figures = world.prepare(dataset={"overlength": "Truncate"}, evaluation={"maxRows": 1}).dataset
    assert figures.truncated == 1
    assert [(each.reason, each.rows) for each in figures.dropped] == [("NothingToTrain", 1)]


def test_bad_rows_that_fail_the_run_are_reported_too(world: World) -> None:
    world.write("data/train.jsonl", BAD)
    with pytest.raises(TrainerError, match=r"^2 of 32 rows .* allows 0.05: train.jsonl:31: the column") as caught:
        world.prepare(dataset={"maxBadFraction": 0.05})
    (path,) = (world.root / "work").rglob(DATA_REPORT)
    assert f"s3://team-a/{path.relative_to(world.root)}" in (caught.value.remedy or "")
    assert (report(world).train.rows, len(report(world).train.bad_rows)) == (32, 2)


def test_the_report_shows_the_rows_as_the_model_sees_them(world: World) -> None:
    assert world.prepare().dataset.samples == (), "status is read by more people than the bucket"
    result = world.prepare(dataset={"samplesInStatus": 2})
    told = report(world)
    first = "<|im_start|>user\nquestion 0<|im_end|>\n<|im_start|>assistant\n⟦answer 0<|im_end|>⟧\n"
    assert told.train.samples[0] == result.dataset.samples[0] == first
    assert (len(told.train.samples), len(result.dataset.samples)) == (3, 2)
    assert sum(bucket.rows for bucket in told.train.histogram) == 100
    assert told.train.histogram == result.dataset.histogram
    assert (told.evaluation, told.held_out, told.train.kept) == (None, 5, 95)
    assert result.dataset.report == data_report_uri(run_file())


def test_what_changes_nothing_is_listed_source_by_source(world: World) -> None:
    named = [{**row, "source": "web"} for row in CHATS[:50]]
    for row in named:
        row["messages"] = [{**message, "id": 1} for message in row["messages"]]
    world.write("data/train.jsonl", named)
    world.write("data/more.jsonl", [{**row, "source": "book"} for row in CHATS[50:]])
    uris = [f"s3://team-a/data/{name}.jsonl" for name in ("train", "more")]
    result = world.prepare(dataset={"uri": None, "sources": [{"uri": uri} for uri in uris]})
    first, second = report(world).train.sources
    keys = ["messages[assistant].id", "messages[user].id"]
    assert [(each.name, each.rows) for each in first.unused] == [*((key, 50) for key in keys), ("source", 50)]
    assert [(each.name, each.rows) for each in second.unused] == [("source", 50)]
    assert [(each.name, each.rows) for each in result.dataset.unused] == [*((key, 50) for key in keys), ("source", 100)]


def test_prompts_on_both_sides_are_counted_and_copies_left_out(world: World) -> None:
    other_answer = {"messages": [conversation(7)["messages"][0], {"role": "assistant", "content": "else"}]}
    world.write("data/eval.jsonl", [conversation(5), other_answer])
    result = world.prepare(evaluation={"dataset": {"uri": "s3://team-a/data/eval.jsonl"}})
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("InEvaluationSet", 1)]
    assert result.dataset.leaked_prompts == 1
    assert report(world).evaluation


def test_further_sets_are_prepared_apart_and_kept_out(world: World, tmp_path: Path) -> None:
    other_answer = {"messages": [conversation(7)["messages"][0], {"role": "assistant", "content": "else"}]}
    world.write("data/first.jsonl", [conversation(5), other_answer])
    world.write("data/second.jsonl", [conversation(number) for number in range(200, 240)])
    sets = [
        {"name": "first", "uri": "s3://team-a/data/first.jsonl"},
        {"name": "second", "uri": "s3://team-a/data/second.jsonl", "maxRows": 3},
    ]
    run = run_file(evaluation={"datasets": sets})
    result = world.prepare_run(run)
    folder = world.fetched(run, tmp_path / "set")
    trained, held_out = texts(folder / TRAIN_ROWS), texts(folder / EVAL_ROWS)
    first, second = (texts(folder / set_rows(name)) for name in ("first", "second"))
    assert (len(trained), len(held_out), len(first), len(second)) == (94, 5, 2, 3)
    assert not first & (trained | held_out)
    assert [(each.reason, each.rows) for each in result.dataset.dropped] == [("InEvaluationSet", 1)]
    assert result.dataset.leaked_prompts == 1
    told = report(world)
    assert [(each.name, each.rows, each.kept) for each in told.evaluation_sets] == [("first", 2, 2), ("second", 40, 3)]
    assert told.evaluation is None
    others = [sets[0], sets[1] | {"maxRows": 4}]
    assert world.prepare(evaluation={"datasets": others}).run_digest != result.run_digest
    assert world.prepare(evaluation={"datasets": [sets[1], sets[0]]}).run_digest != result.run_digest


def test_a_row_that_no_further_set_can_use_is_named(world: World) -> None:
    world.write("data/first.jsonl", [conversation(5), {"messages": 3}])
    sets = [{"name": "first", "uri": "s3://team-a/data/first.jsonl"}]
    with pytest.raises(TrainerError, match=r"first\.jsonl:2: messages is a number") as refused:
        world.prepare(evaluation={"datasets": sets})
    assert refused.value.code == ExitCode.DatasetInvalid


def sources(*named: dict[str, Any]) -> dict[str, Any]:
    return {"uri": None, "sources": [each | {"uri": f"s3://team-a/{each['uri']}"} for each in named]}


def test_several_sources_with_formats_and_weights_of_their_own(world: World, tmp_path: Path) -> None:
    world.write("data/pairs/train.jsonl", [{"q": f"pair {number}", "a": f"reply {number}"} for number in range(40)])
    pairs = {"uri": "data/pairs", "weight": 0.5, "columns": {"prompt": "q", "completion": "a"}}
    run = run_file(dataset=sources({"uri": "data/train.jsonl", "weight": 2}, pairs), evaluation={"maxRows": 10})
    result = world.prepare_run(run)
    assert result.dataset.format == "Messages, PromptCompletion"
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
    assert world.prepare().dataset.format == "Text"


def test_nothing_is_left_beside_the_set(world: World) -> None:
    run = run_file()
    world.prepare_run(run)
    left = {path.relative_to(world.root).parts[0] for path in world.root.rglob("*") if path.is_file()}
    assert left == {"models", "data", "work"}, "the probe of the output folder is gone"


def test_prompts_of_ones_own_go_with_the_prepared_set(world: World, tmp_path: Path) -> None:
    run = run_file(evaluation={"prompts": ["What is one?", "What is two?"]})
    world.prepare_run(run)
    prepared = read_prepared(world.fetched(run, tmp_path / "set"))
    assert [prompt.text for prompt in prepared.prompts] == ["What is one?", "What is two?"]
    asked = tiny_tokenizer().decode(prepared.prompts[0].input_ids, skip_special_tokens=False)
    assert asked == "<|im_start|>user\nWhat is one?<|im_end|>\n<|im_start|>assistant\n"


def led(row: dict[str, Any], system: str) -> dict[str, Any]:
    """The row of any format with a system message."""
    return row | {"system": system}


def asked(world: World, folder: Path, **blocks: Any) -> tuple[str, str | None]:
    """What the model reads of the prompt "Who?", and the system message that the report says all rows have."""
    run = run_file(**blocks | {"evaluation": {"prompts": ["Who?"]} | blocks.get("evaluation", {})})
    world.prepare_run(run)
    (prompt,) = read_prepared(world.fetched(run, folder)).prompts
    return tiny_tokenizer().decode(prompt.input_ids, skip_special_tokens=False), report(world).system_message


OF_METHODS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "chats": (CHATS, {}),
    "texts": ([{"prompt": f"q{number}", "completion": "a"} for number in range(40)], {}),
    "pairs": ([preference(number) for number in range(40)], {"training": {"method": "DPO"}}),
    "questions": ([{"prompt": f"{number} + 1", "answer": number + 1} for number in range(40)], {"training": grpo()}),
}
QUESTION = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
LED = "<|im_start|>system\nBe brief.<|im_end|>\n" + QUESTION


@pytest.mark.parametrize("kind", OF_METHODS)
def test_prompts_are_asked_with_the_system_message_of_all_rows(world: World, tmp_path: Path, kind: str) -> None:
    rows, blocks = OF_METHODS[kind]
    world.write("data/train.jsonl", [led(row, "Be brief.") for row in rows])
    assert asked(world, tmp_path / "same", **blocks) == (LED, "Be brief.")
    named = blocks | {"evaluation": {"systemPrompt": ""}}
    assert asked(world, tmp_path / "none", **named) == (QUESTION, "Be brief.")
    world.write("data/train.jsonl", [*(led(row, "Be brief.") for row in rows[:-1]), led(rows[-1], "Be kind.")])
    assert asked(world, tmp_path / "differing", **blocks) == (QUESTION, None)
    named = blocks | {"evaluation": {"systemPrompt": "Be brief."}}
    assert asked(world, tmp_path / "named", **named) == (LED, None)


def test_a_named_system_message_gives_another_run(world: World) -> None:
    plain, other = (
        world.prepare(evaluation={"prompts": ["Who?"]} | more).run_digest for more in ({}, {"systemPrompt": "Hi."})
    )
    assert plain != other
