"""Chats of several answers: each answer is trained as the model gives it, in one sample or in one for each answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.outcome import DroppedRows
from lora_trainer.contract.spec.dataset import Overlength, RowFormat, SourceSpec
from lora_trainer.contract.spec.training import TrainOn
from lora_trainer.data.columns import RowError
from lora_trainer.data.encoders import answers_encoder
from lora_trainer.data.report import BadRows, DropReason
from lora_trainer.data.rows import Limits, OpenSource, RowSet, tokenise
from lora_trainer.data.sources import Record
from lora_trainer.data.split import Split, evaluated_sets, split_by_hash, split_by_set
from lora_trainer.data.summary import DataReport, set_report
from lora_trainer.data.template_language import Template
from lora_trainer.data.tokens import RowTokenizer, TokenRow
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS

from tests.support.prepare_world import World, with_template
from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer
from tests.unit.trainer.test_chat_template import (
    DROPS_REASONING,
    ENDS_THE_LAST_OTHERWISE,
    ENDS_THE_TEXT,
    INSTRUCTIONS,
    OPENS_REASONING,
    SAYS_WHAT_IS_GENERATED,
    SHORTENS_REASONING,
)

Message = dict[str, Any]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
MARKUP = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "<|end|>",
)
ENDING = re.compile(r"(<\|\w+\|>|</s>|\s)+\Z")
# Like Qwen3: an empty block stands before the last answer alone.
OPENS_THE_LAST = CHATML.replace(
    "{{ message.content }}",
    "{% if loop.last and message.role == 'assistant' %}<think></think>{% endif %}{{ message.content }}",
)
# Like Mistral: the system message stands before the last question.
MOVES_THE_SYSTEM = (
    "{% set rules = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set ns = namespace(last=0) %}"
    "{% for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages if message.role != 'system' %}<|im_start|>{{ message.role }}\n"
    "{% if message is sameas messages[ns.last] %}{{ rules }}{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "shortens reasoning": SHORTENS_REASONING,
    "opens reasoning": OPENS_REASONING,
    "drops reasoning": DROPS_REASONING.replace("'user'", "'user' or m.role == 'system' or m.role == 'tool'"),
    "ends the last otherwise": ENDS_THE_LAST_OTHERWISE,
    "ends the text": ENDS_THE_TEXT.replace("<|{{ message.role }}|>", "<|im_start|>{{ message.role }}").replace(
        "<|assistant|>", "<|im_start|>assistant"
    ),
    "instructions": INSTRUCTIONS,
    "opens the last": OPENS_THE_LAST,
    "moves the system": MOVES_THE_SYSTEM,
    "says what is generated": SAYS_WHAT_IS_GENERATED,
    "generates the last otherwise": SAYS_WHAT_IS_GENERATED.replace(
        "{% generation %}", "{% generation %}{{ '<think></think>' if loop.last }}"
    ),
}
SOURCE = OpenSource(spec=SourceSpec(uri="s3://bucket/d.jsonl"), row_format=RowFormat.MESSAGES, records=iter(()))
WORDS = st.text("ab <>", min_size=1, max_size=6).map(lambda text: f"w{text}w")


@cache
def using(source: str) -> RowTokenizer:
    return RowTokenizer(backend=tiny_tokenizer(special=MARKUP), special_tokens=SPECIAL, template=source)


def samples(
    tokenizer: RowTokenizer, messages: Sequence[Message], train_on: TrainOn = TrainOn.ANSWERS
) -> list[TokenRow]:
    encoder = answers_encoder(tokenizer, RowFormat.MESSAGES, None, train_on=train_on)
    return list(tokenizer.encode(encoder.draft({"messages": messages})))


def shown(source: str, messages: Sequence[Message], train_on: TrainOn = TrainOn.ANSWERS) -> list[str]:
    """The samples as text, with what counts in the loss in ⟦ ⟧, without the markup of roles."""
    tokenizer = using(source)
    texts = (tokenizer.marked(row.input_ids, row.completion_mask) for row in samples(tokenizer, messages, train_on))
    return [text.strip().replace("<|im_start|>", "").replace("<|im_end|>\n", " ").replace("\n", ":") for text in texts]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def said(content: str, **keys: Any) -> Message:
    return {"role": "assistant", "content": content, **keys}


TURNS = [user("q"), said("a"), user("r"), said("b"), user("s"), said("c")]


def test_each_answer_is_the_last_one_of_its_sample() -> None:
    assert shown(OPENS_THE_LAST, TURNS) == [
        "user:q assistant:⟦<think></think>a<|im_end|>⟧",
        "user:q assistant:a user:r assistant:⟦<think></think>b<|im_end|>⟧",
        "user:q assistant:a user:r assistant:b user:s assistant:⟦<think></think>c<|im_end|>⟧",
    ]


def test_the_last_answer_alone_is_one_sample() -> None:
    assert shown(OPENS_THE_LAST, TURNS, TrainOn.LAST_ANSWER) == shown(OPENS_THE_LAST, TURNS)[2:]


def test_answers_that_are_not_learned_or_empty_are_no_samples() -> None:
    messages = [user("q"), said("a", weight=0), user("r"), said(""), user("s"), said("c"), user("t"), said("d")]
    assert [text.partition("⟦")[2] for text in shown(OPENS_THE_LAST, messages)] == [
        "<think></think>c<|im_end|>⟧",
        "<think></think>d<|im_end|>⟧",
    ]


def test_a_call_and_the_answer_to_its_result_are_two_turns() -> None:
    called = "{% for call in message.tool_calls or [] %}!{{ call.name }}{{ call.arguments | tojson }}{% endfor %}"
    source = OPENS_THE_LAST.replace("{{ message.content }}", "{{ message.content }}" + called)
    call = said("", tool_calls=[{"name": "find", "arguments": {}}])
    assert shown(source, [user("q"), call, {"role": "tool", "content": "7"}, said("seven")]) == [
        "user:q assistant:⟦<think></think>!find{}<|im_end|>⟧",
        "user:q assistant:!find{} tool:7 assistant:⟦<think></think>seven<|im_end|>⟧",
    ]


def test_everything_as_one_text_shows_answers_as_they_are_once_more_follow() -> None:
    assert len(shown(OPENS_THE_LAST, TURNS, TrainOn.EVERYTHING)) == 1
    with pytest.raises(RowError, match=r"writes messages\[1\] otherwise .* set training\.sft\.trainOn to Answers"):
        shown(OPENS_THE_LAST, TURNS[:3], TrainOn.EVERYTHING)


@st.composite
def chats(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(user(draw(WORDS)))
        for _ in range(draw(st.integers(0, 1))):
            messages += [said(draw(WORDS)), {"role": "tool", "content": draw(WORDS)}]
        messages.append(said(draw(WORDS), **draw(st.sampled_from([{}, {}, {"weight": 0}]))))
    messages[-1].pop("weight", None)
    return messages


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=chats())
def test_each_answer_is_trained_as_the_model_gives_it(name: str, messages: list[Message]) -> None:
    """Where the prompt is the beginning of what the template writes, the answer is the rest of it. Where it is not, as
    with a block that the prompt alone opens, the answer is at least the end of it."""
    source, tokenizer = TEMPLATES[name], using(TEMPLATES[name])
    rows = samples(tokenizer, messages)
    trained = [part for row in rows for part in parts(tokenizer, row)]
    learned = [
        index for index, message in enumerate(messages) if message["role"] == "assistant" and "weight" not in message
    ]
    assert len(trained) == len(learned)
    for index, (before, answer) in zip(learned, trained, strict=True):
        asked, whole = written(source, messages[:index], ask=True), written(source, messages[: index + 1])
        is_last = len(rows) > 1 or index == learned[-1]
        # A template may end an answer otherwise once more messages follow.
        ending = whole.rstrip() if is_last else ENDING.sub("", whole)
        told = answer if is_last else ENDING.sub("", answer)
        if whole.startswith(asked):
            assert (before, told) == (asked, ending[len(asked) :])
        else:
            assert ending.endswith(told)
            assert messages[index]["content"].strip() in told


def parts(tokenizer: RowTokenizer, row: TokenRow) -> list[tuple[str, str]]:
    """What is trained in a sample, each with all the text before it."""
    text = tokenizer.marked(row.input_ids, row.completion_mask)
    return [
        (re.sub("[⟦⟧]", "", text[: found.start()]), found.group(1)) for found in re.finditer("⟦(.*?)⟧", text, re.DOTALL)
    ]


compiled = cache(Template)


def written(source: str, messages: Sequence[Mapping[str, Any]], *, ask: bool = False) -> str:
    """What the template alone writes."""
    plain = [{name: value for name, value in message.items() if name != "weight"} for message in messages]
    return compiled(source).write(messages=plain, tools=None, add_generation_prompt=ask, **SPECIAL).text


# --- rows and samples ------------------------------------------------------------------------------------------------


def tokenised(
    rows: Sequence[Sequence[Message]],
    folder: Path,
    *,
    source: str = OPENS_THE_LAST,
    max_length: int = 10_000,
    overlength: Overlength = Overlength.DROP,
) -> RowSet:
    tokenizer = using(source)
    records = (Record(where=f"d.jsonl:{line}", columns={"messages": row}) for line, row in enumerate(rows, start=1))
    return tokenise(
        [replace(SOURCE, records=records)],
        folder / "rows.parquet",
        encoder=lambda _: answers_encoder(tokenizer, RowFormat.MESSAGES, None, train_on=TrainOn.ANSWERS),
        limits=Limits(max_length=max_length, overlength=overlength),
        bad=BadRows(),
    )


ANSWERS = st.lists(st.integers(0, 4), min_size=1, max_size=4)
"""A chat for `numbered`."""


def numbered(*numbers: int) -> list[Message]:
    """A chat with an answer for each number."""
    return [message for number in numbers for message in (user(f"q{number}"), said(f"a{number}"))]


def test_a_template_that_needs_no_second_sample_makes_none(tmp_path: Path) -> None:
    rows = tokenised([TURNS, TURNS[:4]], tmp_path, source=CHATML)
    assert list(rows.row) == [0, 1]
    assert rows.row_digests() == rows.digests
    assert rows.report.answer_rows == 0
    assert [digest.hex() for digest in rows.digests] == [
        "e40e68eb2785d7f921a55b8ac01059da",
        "e83848803aefb27b3aa6d001a6a46ed7",
    ], "the rows of earlier releases have these digests: their adapters are found again"


def test_rows_and_samples_are_counted(tmp_path: Path) -> None:
    rows = tokenised([numbered(1, 2, 3), numbered(4), numbered(5, 6)], tmp_path)
    assert (rows.read, list(rows.row)) == (3, [0, 0, 0, 1, 2, 2])
    assert len(rows.row_digests()) == len(set(rows.row_digests())) == 3
    report = set_report(rows, times=[2, 2, 2, 0, 1, 1], sources=[SOURCE])
    assert (report.kept, report.duplicates) == (3, 0)
    assert report.tokens == 2 * sum(rows.tokens[:3]) + sum(rows.tokens[4:])
    assert report.one_by_one
    assert (report.one_by_one.rows, report.one_by_one.samples, report.one_by_one.dropped) == (2, 5, {})


def test_a_sample_that_is_too_long_does_not_take_its_row_along(tmp_path: Path) -> None:
    chat = [numbered(1, 2, 3), [user("q" * 80), said("a"), user("r"), said("b")]]
    rows = tokenised(chat, tmp_path, max_length=68)
    assert list(rows.row) == [0, 0]
    assert rows.report.dropped_rows() == (DroppedRows(reason="TooLong", rows=1),)
    report = set_report(rows, times=[1, 1], sources=[SOURCE])
    assert report.one_by_one
    assert report.one_by_one.sentence().endswith("2 rows became 5 samples (left out: 3 TooLong).")
    cut = tokenised(chat[:1], tmp_path, max_length=68, overlength=Overlength.TRUNCATE)
    assert (list(cut.row), cut.report.truncated) == ([0, 0], 1), "nothing is left of the third answer"
    failed = tokenised(chat, tmp_path, max_length=68, overlength=Overlength.FAIL)
    assert failed.overlong.count == 2, "rows, not samples"


@given(
    rows=st.lists(ANSWERS, min_size=2, max_size=12),
    limit=st.integers(1, 8),
    share=st.floats(0.01, 0.5),
)
def test_no_row_and_no_sample_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], limit: int, share: float
) -> None:
    made = tokenised([numbered(*row) for row in rows], tmp_path_factory.mktemp("rows"))
    run = run_file(evaluation={"maxRows": limit, "holdoutFraction": share})
    try:
        split = split_by_hash(made, run)
    except TrainerError:
        # Every row repeats another one, in all of its samples.
        assert all(
            any(row == other[: len(row)] for other in (*rows[:at], *rows[at + 1 :])) for at, row in enumerate(rows)
        )
        return
    sides_are_apart(split)
    trained, evaluated = sides(split, made.row)
    assert not set(trained) & set(evaluated)
    assert len(set(evaluated)) <= max(1, round(share * len(rows)))
    assert len(evaluated) <= limit or len(set(evaluated)) == 1
    assert set(trained), "something is left to train on"


@given(rows=st.lists(ANSWERS, min_size=2, max_size=8), others=st.lists(ANSWERS, min_size=1, max_size=8))
def test_samples_of_an_evaluation_set_are_not_trained_on(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], others: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    made, evaluation = (tokenised([numbered(*row) for row in each], folder) for each in (rows, others))
    # A row of the dataset has nothing of its own where it is how a row of the evaluation set begins.
    own = [row for row in rows if not any(row == other[: len(row)] for other in others)]
    try:
        split = split_by_set(made, evaluation, run_file(evaluation={"maxRows": 256}))
    except TrainerError:
        assert not own
        return
    sides_are_apart(split)
    assert sum(made.row_times(split.trained_on)) == len(own)
    assert made.report.dropped[DropReason.IN_EVALUATION] == len(rows) - len(own)
    samples_of_others = beginnings(others)
    assert sum(split.evaluated_on) == len(samples_of_others), "each once"


@given(rows=st.lists(ANSWERS, min_size=2, max_size=8), others=st.lists(ANSWERS, min_size=1, max_size=8))
def test_samples_of_a_further_set_are_neither_trained_on_nor_held_out(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], others: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    made, further = (tokenised([numbered(*row) for row in each], folder) for each in (rows, others))
    run = run_file(evaluation={"datasets": [{"name": "more", "uri": "s3://team-a/more.jsonl"}], "maxRows": 256})
    (more,) = evaluated_sets({"more": further}, run)
    samples_of_others = beginnings(others)
    assert sum(more.evaluated_on) == len(samples_of_others), "each once"
    try:
        split = split_by_hash(made, run, sets=[more])
    except TrainerError:
        own = [row for row in rows if tuple(row) not in samples_of_others]
        repeats = (any(row == other[: len(row)] for other in (*own[:at], *own[at + 1 :])) for at, row in enumerate(own))
        assert len(own) < 2 or all(repeats)
        return
    sides_are_apart(split)
    used = [digest for digest, *on in zip(made.digests, split.trained_on, split.evaluated_on, strict=True) if any(on)]
    assert not set(used) & set(further.digests)


def beginnings(rows: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    """The samples of rows: each up to each of its answers."""
    return {tuple(row[:length]) for row in rows for length in range(1, len(row) + 1)}


def sides_are_apart(split: Split) -> None:
    trained = {digest for digest, times in zip(split.train.digests, split.trained_on, strict=True) if times}
    evaluated = [digest for digest, held in zip(split.evaluation.digests, split.evaluated_on, strict=True) if held]
    assert len(set(evaluated)) == len(evaluated) > 0
    assert not trained & set(evaluated)


def sides(split: Split, row: Sequence[int]) -> tuple[list[int], list[int]]:
    """The rows of the samples that are trained on, and of those that are evaluated on."""
    return (
        [of for of, times in zip(row, split.trained_on, strict=True) if times],
        [of for of, held in zip(row, split.evaluated_on, strict=True) if held],
    )


def test_prepare_says_how_many_samples_the_rows_became_and_why(world: World, tmp_path: Path) -> None:
    world.write("data/train.jsonl", [{"messages": numbered(number, number + 1)} for number in range(0, 80, 2)])
    run = run_file(**with_template(jinja=OPENS_THE_LAST), evaluation={"holdoutFraction": 0.1})
    result = world.prepare_run(run)
    figures = result.dataset
    assert (figures.rows, figures.kept, figures.held_out, figures.answer_samples) == (40, 36, 4, 72)
    (why,) = (reason for reason in result.chosen.reasons if reason.startswith("one sample per answer: "))
    assert "40 rows became 80 samples" in why
    folder = world.fetched(run, tmp_path / "set")
    assert (pq.read_table(folder / TRAIN_ROWS).num_rows, pq.read_table(folder / EVAL_ROWS).num_rows) == (72, 8)
    for row in pq.read_table(folder / EVAL_ROWS).to_pylist():
        assert row["prompt"].removeprefix("q") == row["completion"].removeprefix("a")
    (path,) = world.root.rglob("data-report.json")
    report = DataReport.model_validate_json(path.read_text())
    assert report.held_out == 4
    assert json.loads(path.read_text())["train"]["oneByOne"] == {"rows": 40, "samples": 80, "dropped": {}}


def test_chats_that_need_no_cut_say_nothing_of_it(world: World) -> None:
    result = world.prepare()
    assert result.dataset.answer_samples is None
    assert not any("sample per answer" in reason for reason in result.chosen.reasons)
