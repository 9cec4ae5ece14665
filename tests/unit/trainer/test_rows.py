"""From records to rows on disk: what is dropped, what fails, what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import compress, permutations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.dataset import Overlength, RowFormat, SourceSpec
from lora_trainer.contract.spec.training import Method, TrainingSpec, TrainOn
from lora_trainer.data.encoders import answers_encoder
from lora_trainer.data.report import REPORTED_BAD_ROWS, BadRows, DropReason, histogram, length_figures
from lora_trainer.data.rows import Limits, OpenSource, RowSet, peek_format, tokenise
from lora_trainer.data.sources import Record
from lora_trainer.data.split import (
    data_digest,
    draw,
    duplicates,
    evaluated_sets,
    first_of_each,
    hold_out,
    not_in,
    split_by_hash,
    split_by_set,
)
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import SCHEMAS, copy_rows

from tests.support.runs import run_file
from tests.support.tiny_model import CHATML, tiny_tokenizer

SPEC = SourceSpec(uri="s3://bucket/data.jsonl")
DIGESTS = [bytes([number]) * 16 for number in range(10)]


def run(
    records: list[dict[str, Any]],
    tmp_path: Path,
    *,
    row_format: RowFormat = RowFormat.TEXT,
    max_length: int = 1000,
    overlength: Overlength = Overlength.DROP,
) -> RowSet:
    template = None if row_format is RowFormat.TEXT else CHATML
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=template)
    read = (Record(where=f"data.jsonl:{line}", columns=columns) for line, columns in enumerate(records, start=1))
    return tokenise(
        [OpenSource(spec=SPEC, row_format=row_format, records=read)],
        tmp_path / "rows.parquet",
        encoder=lambda _: answers_encoder(tokenizer, row_format, None, train_on=TrainOn.ANSWERS),
        limits=Limits(max_length=max_length, overlength=overlength),
        bad=BadRows(),
    )


def answer(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]}


def test_rows_are_written_in_order_over_many_batches(tmp_path: Path) -> None:
    rows = run([{"text": f"row {number}"} for number in range(2500)], tmp_path)
    table = pq.read_table(rows.path)
    assert table.schema == SCHEMAS[Method.SFT].held_out
    assert table.num_rows == rows.read == len(rows.digests) == 2500
    assert list(rows.lengths) == [len(ids) for ids in table["input_ids"].to_pylist()]
    assert duplicates(rows.digests) == 0


def test_long_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = run([{"text": "a" * 9}, {"text": "a" * 10}, {"text": "a" * 50}], tmp_path, max_length=10)
    assert list(rows.lengths) == [10]
    assert [(each.reason, each.rows) for each in rows.report.dropped_rows()] == [("TooLong", 2)]
    assert length_figures(rows.report.lengths).max == 51, "the lengths before the limit are what helps the user"


def test_long_rows_are_cut(tmp_path: Path) -> None:
    rows = run([{"text": "a" * 50}], tmp_path, max_length=10, overlength=Overlength.TRUNCATE)
    assert list(rows.lengths) == [10]
    assert rows.report.truncated == 1


def test_long_rows_are_noted_by_line_where_they_may_not_be(tmp_path: Path) -> None:
    rows = run([{"text": "a"}, {"text": "a" * 50}], tmp_path, max_length=10, overlength=Overlength.FAIL)
    assert rows.overlong.shown() == "data.jsonl:2: has 51 tokens"
    assert rows.bad.count == 0


def test_an_answer_that_was_cut_away_leaves_nothing_to_train(tmp_path: Path) -> None:
    rows = run(
        [answer("a" * 50)], tmp_path, row_format=RowFormat.MESSAGES, max_length=20, overlength=Overlength.TRUNCATE
    )
    assert rows.digests == []
    assert [each.reason for each in rows.report.dropped_rows()] == ["NothingToTrain"]


@pytest.mark.parametrize(
    ("record", "row_format"),
    [
        ({"text": " \n"}, RowFormat.TEXT),
        (answer(""), RowFormat.MESSAGES),
        ({"prompt": "q", "completion": " "}, RowFormat.PROMPT_COMPLETION),
    ],
)
def test_empty_answers_are_dropped(tmp_path: Path, record: dict[str, Any], row_format: RowFormat) -> None:
    rows = run([record], tmp_path, row_format=row_format)
    assert rows.digests == []
    assert [each.reason for each in rows.report.dropped_rows()] == ["EmptyAnswer"]


def test_bad_rows_are_counted_with_their_place(tmp_path: Path) -> None:
    rows = run([{"text": "a"}, {"text": 1}, {"b": "x"}, {"text": "b"}], tmp_path)
    assert (rows.read, len(rows.digests), rows.bad.count) == (4, 2, 2)
    assert [(each.reason, each.rows) for each in rows.report.dropped_rows()] == [("BadRow", 2)]
    assert rows.bad.shown().startswith("data.jsonl:2: the column text is a number instead of a string; data.jsonl:3: ")


def test_so_many_bad_rows_may_be() -> None:
    bad = BadRows()
    for line in range(5):
        bad.add(f"a:{line}", "no")
    bad.limit(rows=100, largest_share=0.05, report="s3://b/r.json")
    with pytest.raises(TrainerError) as caught:
        bad.limit(rows=99, largest_share=0.05, report="s3://b/r.json")
    assert caught.value.code is ExitCode.DatasetInvalid
    assert caught.value.message == (
        "5 of 99 rows of the dataset cannot be used, but dataset.maxBadFraction allows 0.05:"
        " a:0: no; a:1: no; a:2: no; and 2 more."
    )
    assert "s3://b/r.json" in (caught.value.remedy or "")


def test_not_more_bad_rows_are_kept_than_the_report_shows() -> None:
    bad = BadRows()
    for line in range(250):
        bad.add(f"a:{line}", "no")
    assert (bad.count, len(bad.first)) == (250, REPORTED_BAD_ROWS)


def test_the_first_row_is_not_lost_to_detection() -> None:
    records = [Record(where="a:1", columns={"text": "a"}), Record(where="a:2", columns={"text": "b"})]
    found, rest = peek_format(iter(records), SPEC, Method.SFT)
    assert found is RowFormat.TEXT
    assert list(rest) == records


def test_no_rows_have_no_format() -> None:
    found, rest = peek_format(iter(()), SPEC, Method.SFT)
    assert (found, list(rest)) == (None, [])


def held_out(digests: Sequence[bytes], *, seed: int, rows: int) -> set[int]:
    """Which rows of one sample each are held out."""
    alone = [int(digests.count(digest) == 1) for digest in digests]
    return hold_out(digests, alone, seed=seed, rows=rows, limit=rows)


def test_the_same_rows_are_held_out_in_any_order() -> None:
    few = DIGESTS[:5]
    chosen = {frozenset(order[row] for row in held_out(order, seed=1, rows=2)) for order in permutations(few)}
    assert len(chosen) == 1
    assert len(next(iter(chosen))) == 2


def test_another_seed_holds_out_other_rows() -> None:
    assert len({frozenset(held_out(DIGESTS, seed=seed, rows=3)) for seed in range(8)}) > 1


@given(st.lists(st.sampled_from(DIGESTS), max_size=40), st.integers(0, 2**31 - 1), st.integers(0, 20))
def test_no_row_is_on_both_sides(digests: list[bytes], seed: int, rows: int) -> None:
    held = held_out(digests, seed=seed, rows=rows)
    assert not {digests[row] for row in held} & {digest for row, digest in enumerate(digests) if row not in held}
    assert len(held) <= rows


@given(st.lists(st.sampled_from(DIGESTS), max_size=40), st.integers(0, 2**31 - 1), st.integers(0, 20))
def test_an_evaluation_set_has_no_row_twice(digests: list[bytes], seed: int, rows: int) -> None:
    chosen = [digests[row] for row in first_of_each(digests, [1] * len(digests), seed=seed, limit=rows)]
    assert len(chosen) == len(set(chosen)) == min(rows, len(set(digests)))


def test_rows_of_the_evaluation_set_are_kept_out() -> None:
    assert not_in(DIGESTS[:3], {DIGESTS[1]}) == [True, False, True]


def test_the_digest_knows_sides_and_order() -> None:
    a, b, c = DIGESTS[:3]
    assert data_digest([a, b], [c]) == data_digest([a, b], [c])
    assert (
        len({data_digest([a, b], [c]), data_digest([b, a], [c]), data_digest([a], [b, c]), data_digest([a, b], [])})
        == 4
    )
    assert len({data_digest([a], [b]), data_digest([a], [b], []), data_digest([a], [], [b])}) == 3


def test_copying_keeps_the_chosen_rows_and_columns(tmp_path: Path) -> None:
    rows = run([{"text": f"row {number}"} for number in range(1500)], tmp_path)
    times = [1 if number % 3 == 0 else 0 for number in range(1500)]
    copy_rows(rows.path, tmp_path / "train.parquet", schema=SCHEMAS[Method.SFT].trained, times=times)
    table = pq.read_table(tmp_path / "train.parquet")
    assert table.schema == SCHEMAS[Method.SFT].trained
    assert table["input_ids"].to_pylist() == pq.read_table(rows.path)["input_ids"].to_pylist()[::3]


def test_lengths_by_nearest_rank(tmp_path: Path) -> None:
    rows = run([{"text": "a" * number} for number in range(1, 101)], tmp_path)
    figures = length_figures(rows.report.lengths)
    assert (figures.p50, figures.p95, figures.max) == (51, 96, 101)


def test_the_histogram_doubles_its_buckets_and_leaves_nothing_out() -> None:
    buckets = histogram([10, 32, 33, 200, 5_000_000])
    assert [(each.up_to, each.rows) for each in buckets if each.rows] == [(32, 2), (64, 1), (256, 1), (2**20, 1)]
    assert len(buckets) == 16
    assert histogram([]) == ()
    assert [(each.up_to, each.rows) for each in histogram([100, 300])] == [(128, 1), (256, 0), (512, 1)]


def weighted(*weights: float) -> RunFile:
    sources = [{"uri": f"s3://team-a/{number}.jsonl", "weight": weight} for number, weight in enumerate(weights)]
    return run_file(dataset={"uri": None, "sources": sources})


def row_set(*rows_of_source: int) -> RowSet:
    count = sum(rows_of_source)
    tokenizer = RowTokenizer(backend=tiny_tokenizer(), special_tokens={"eos_token": "<|im_end|>"}, template=None)
    encoder = answers_encoder(tokenizer, RowFormat.TEXT, None, train_on=TrainOn.ANSWERS)
    limits = Limits(max_length=100, overlength=Overlength.DROP)
    rows = RowSet(
        path=Path("none"),
        encoder=encoder,
        limits=limits,
        digests=[number.to_bytes(16, "big") for number in range(count)],
    )
    rows.row.extend(range(count))
    rows.source.extend(number for number, of in enumerate(rows_of_source) for _ in range(of))
    return rows


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 5)), min_size=1, max_size=4))
def test_a_source_gives_its_weight_of_rows(sources: list[tuple[int, float]]) -> None:
    rows = row_set(*(count for count, _ in sources))
    times = draw(rows, weighted(*(weight for _, weight in sources)))
    start = 0
    for count, weight in sources:
        of = times[start : start + count]
        start += count
        assert sum(of) == max(1, round(weight * count))
        assert max(of) - min(of) <= 1
    assert rows.report.dropped[DropReason.NOT_DRAWN] == times.count(0)


def test_the_same_rows_are_drawn_in_any_order_and_others_with_another_seed() -> None:
    rows = row_set(20)
    times = draw(rows, weighted(0.3))
    chosen = {digest for digest, count in zip(rows.digests, times, strict=True) if count}
    rows.digests.reverse()
    assert {digest for digest, count in zip(rows.digests, draw(rows, weighted(0.3)), strict=True) if count} == chosen
    other = weighted(0.3).model_copy(update={"training": TrainingSpec(seed=1)})
    assert {digest for digest, count in zip(rows.digests, draw(rows, other), strict=True) if count} != chosen


def test_held_out_rows_are_among_those_drawn_and_never_trained_on() -> None:
    split = split_by_hash(row_set(40, 40), weighted(0.5, 2))
    assert sum(split.evaluated_on) == 3
    assert not any(held and count for held, count in zip(split.evaluated_on, split.trained_on, strict=True))
    of_first, of_second = split.trained_on[:40], split.trained_on[40:]
    assert set(of_first) == {0, 1}
    assert set(of_second) <= {0, 2}


ALL_PLACES = ("dataset", "evaluation", "first", "second")
PLACES = st.sampled_from(ALL_PLACES)


@given(st.lists(st.sets(PLACES), min_size=8, max_size=30), st.booleans())
def test_no_row_of_any_evaluation_set_is_trained_on_or_held_out(places: list[set[str]], separate: bool) -> None:
    digests = {name: [bytes([row]) * 16 for row, of in enumerate(places) if name in of] for name in ALL_PLACES}
    of = {name: replace(row_set(len(rows)), digests=rows) for name, rows in digests.items()}
    limits = {"first": 3, "second": 8}
    named = [{"name": name, "uri": f"s3://team-a/{name}.jsonl", "maxRows": most} for name, most in limits.items()]
    run = run_file(evaluation={"datasets": named})
    sets = evaluated_sets({name: of[name] for name in limits}, run)
    asked = {digest for name in (*limits, *(["evaluation"] if separate else [])) for digest in digests[name]}
    own = [digest for digest in digests["dataset"] if digest not in asked]
    divided = (
        partial(split_by_set, of["dataset"], of["evaluation"]) if separate else partial(split_by_hash, of["dataset"])
    )
    if len(own) < (1 if separate else 2):
        with pytest.raises(TrainerError) as refused:
            divided(run, sets=sets)
        assert refused.value.code is ExitCode.DatasetInvalid
        return
    split = divided(run, sets=sets)
    trained = [digest for digest, times in zip(digests["dataset"], split.trained_on, strict=True) if times]
    held_out = list(compress(split.evaluation.digests, split.evaluated_on))
    assert sorted([*trained, *([] if separate else held_out)]) == sorted(own)
    assert of["dataset"].report.dropped[DropReason.IN_EVALUATION] == len(digests["dataset"]) - len(own)
    assert [sum(each.evaluated_on) for each in split.sets] == [min(limits[n], len(digests[n])) for n in limits]


def test_rows_are_copied_as_often_as_they_are_trained_on(tmp_path: Path) -> None:
    rows = run([{"text": f"row {number}"} for number in range(3)], tmp_path)
    copy_rows(rows.path, tmp_path / "train.parquet", schema=SCHEMAS[Method.SFT].trained, times=[2, 0, 1])
    ids = pq.read_table(rows.path)["input_ids"].to_pylist()
    assert pq.read_table(tmp_path / "train.parquet")["input_ids"].to_pylist() == [ids[0], ids[0], ids[2]]
