"""Figures of the dataset for status and data-report.json. Reads the first tokenised rows back as samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice, repeat
from operator import mul
from typing import Annotated

from pydantic import Field

from lora_trainer.contract.outcome import (
    MAX_SAMPLE,
    MAX_SAMPLES,
    MAX_UNUSED,
    DatasetFigures,
    DroppedRows,
    LengthBucket,
    Lengths,
    Unused,
    clip_samples,
)
from lora_trainer.contract.wire import WireModel
from lora_trainer.data.report import BadRow, DropReason, RowReport, histogram, length_figures
from lora_trainer.data.rows import OpenSource, RowSet
from lora_trainer.data.split import EvaluatedSet, Split, data_digest, duplicates
from lora_trainer.data.tokens import RowTokenizer
from lora_trainer.data.unused import merged
from lora_trainer.prepared import read_batches

REPORTED_SAMPLE = 4000
"""Characters of a sample in data-report.json."""
REPORTED_UNUSED = 100


class SourceReport(WireModel):
    """One source of a set."""

    uri: str
    """Where its rows were read from."""
    revision: str | None = None
    """Commit of the hub that was read."""
    format: str | None = None
    """Row format that was found or named."""
    rows: int
    """Usable rows."""
    used: int
    """Rows used in one epoch, by its weight."""
    unused: Annotated[tuple[Unused, ...], Field(max_length=REPORTED_UNUSED)] = ()
    """Columns and keys of its rows that change nothing of what is trained."""


class OneByOne(WireModel):
    """Rows of several answers that became one sample for each of them, because the chat template writes an answer
    otherwise once more messages follow."""

    rows: int
    """How many."""
    samples: int
    """What they became: the conversation up to each trained answer, of which that answer alone is trained."""
    dropped: dict[DropReason, int]
    """Samples left out, by reason. A row of which all are is among the dropped rows."""

    def sentence(self) -> str:
        """Why there are more samples than rows."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return (
            "one sample per answer: the chat template writes an answer otherwise once more messages follow;"
            f" {self.rows} rows became {self.samples} samples{f' (left out: {left_out})' if left_out else ''}."
        )


class SetReport(WireModel):
    """One set of rows: the dataset, or a separate evaluation set."""

    sources: tuple[SourceReport, ...]
    """Where the rows come from."""
    rows: int
    """Rows read, bad ones too."""
    kept: int
    """Rows used: trained on in one epoch, or evaluated on in an evaluation set."""
    dropped: tuple[DroppedRows, ...]
    """Rows left out, by reason."""
    truncated: int
    """Rows whose end was cut off at model.maxSeqLength."""
    one_by_one: OneByOne | None = None
    """Rows that became one sample for each of their answers."""
    duplicates: int
    """Rows that repeat an earlier one."""
    tokens: int
    """Tokens of the rows used."""
    trained_token_share: float
    """Share of those tokens that count in the loss."""
    lengths: Lengths
    """Lengths of the samples in tokens before any limit."""
    histogram: tuple[LengthBucket, ...]
    """Lengths of the samples before any limit, in buckets that double."""
    bad_rows: Annotated[tuple[BadRow, ...], Field(max_length=100)]
    """The first rows that cannot be used, with file, line and reason."""
    samples: tuple[str, ...] = ()
    """The first rows used, as the model sees them; tokens that count in the loss are in \u27e6 \u27e7."""


class NamedSetReport(SetReport):
    """One of evaluation.datasets."""

    name: str
    """Its name."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of a run, read, tokenised and split."""

    split: Split
    tokenizer: RowTokenizer
    sources: Sequence[OpenSource]
    evaluation_sources: Sequence[OpenSource]
    """Sources of a separate evaluation set; none where rows were held out."""
    set_sources: Mapping[str, Sequence[OpenSource]]
    """Sources of evaluation.datasets by their names."""


class DataReport(WireModel):
    """data-report.json: what prepare found in the data, also where it failed."""

    train: SetReport
    """The dataset."""
    evaluation: SetReport | None = None
    """The evaluation set, where the run names one."""
    evaluation_sets: tuple[NamedSetReport, ...] = ()
    """The further sets that the run names."""
    held_out: int = 0
    """Rows of the dataset, or of the evaluation set, that are evaluated on."""
    leaked_prompts: int = 0
    """Rows trained on that ask what a row evaluated on asks too."""
    system_message: str | None = None
    """The system message of the dataset, where all its usable rows have the same: evaluation.prompts are asked with it
    too, unless evaluation.systemPrompt names another."""


def set_report(rows: RowSet, *, times: Sequence[int], sources: Sequence[OpenSource]) -> SetReport:
    """The report of one set, of whose samples each is used so many `times`."""
    used = rows.row_times(times)
    tokens = sum(map(mul, rows.tokens, times))
    return SetReport(
        sources=_source_reports(rows, used, sources),
        rows=rows.read,
        kept=sum(used),
        dropped=rows.report.dropped_rows(),
        truncated=rows.report.truncated,
        one_by_one=_one_by_one(rows.report),
        duplicates=duplicates(rows.row_digests()),
        tokens=tokens,
        trained_token_share=round(sum(map(mul, rows.trained, times)) / tokens, 4) if tokens else 0.0,
        lengths=length_figures(rows.report.lengths),
        histogram=histogram(rows.report.lengths),
        bad_rows=tuple(rows.overlong.first or rows.bad.first),
        samples=clip_samples(_samples(rows, times), REPORTED_SAMPLE),
    )


def _named_report(evaluated: EvaluatedSet, *, sources: Sequence[OpenSource]) -> NamedSetReport:
    report = set_report(evaluated.rows, times=evaluated.evaluated_on, sources=sources)
    return NamedSetReport(name=evaluated.name, **dict(report))


def failed_report(rows: RowSet, *, sources: Sequence[OpenSource]) -> DataReport:
    """The report of a set that cannot be used."""
    return DataReport(train=set_report(rows, times=[1] * len(rows.digests), sources=sources))


def data_report(data: Data) -> DataReport:
    """The report of data that can be trained on."""
    split, own = data.split, data.evaluation_sources
    return DataReport(
        train=set_report(split.train, times=split.trained_on, sources=data.sources),
        evaluation=set_report(split.evaluation, times=split.evaluated_on, sources=own) if own else None,
        evaluation_sets=tuple(_named_report(each, sources=data.set_sources[each.name]) for each in split.sets),
        held_out=sum(split.evaluation.row_times(split.evaluated_on)),
        leaked_prompts=_leaked_prompts(split),
        system_message=split.train.system.text,
    )


def dataset_figures(report: DataReport, split: Split, *, uri: str, samples: int) -> DatasetFigures:
    """Figures of the dataset for status, with at most `samples` samples; `uri` is the URI of the report."""
    train = report.train
    return DatasetFigures(
        format=", ".join(dict.fromkeys(source.format for source in train.sources if source.format)),
        revisions=tuple(source.revision for source in train.sources if source.revision),
        rows=train.rows,
        kept=train.kept,
        answer_samples=sum(split.trained_on) if train.one_by_one else None,
        held_out=report.held_out,
        dropped=train.dropped,
        truncated=train.truncated,
        duplicates=train.duplicates,
        leaked_prompts=report.leaked_prompts,
        unused=merged(source.unused for source in train.sources)[:MAX_UNUSED],
        tokens=train.tokens,
        trained_token_share=train.trained_token_share,
        lengths=train.lengths,
        digest=data_digest(
            chain.from_iterable(map(repeat, split.train.digests, split.trained_on)),
            compress(split.evaluation.digests, split.evaluated_on),
            *(compress(each.rows.digests, each.evaluated_on) for each in split.sets),
        ),
        histogram=train.histogram,
        samples=clip_samples(train.samples[:samples], MAX_SAMPLE),
        report=uri,
    )


def _source_reports(rows: RowSet, times: Sequence[int], sources: Sequence[OpenSource]) -> tuple[SourceReport, ...]:
    usable, used = Counter(rows.source), Counter[int]()
    for number, count in zip(rows.source, times, strict=True):
        used[number] += count
    return tuple(
        SourceReport(
            uri=source.spec.address,
            revision=source.revision,
            format=source.row_format,
            rows=usable[number],
            used=used[number],
            unused=found.found()[:REPORTED_UNUSED],
        )
        for number, (source, found) in enumerate(zip(sources, rows.unused, strict=True))
    )


def _samples(rows: RowSet, times: Sequence[int]) -> tuple[str, ...]:
    stored = (row for batch in read_batches(rows.path) for row in batch.to_pylist())
    first = islice(compress(stored, times), MAX_SAMPLES)
    return tuple(rows.encoder.show(row) for row in first)


def _leaked_prompts(split: Split) -> int:
    sets = ((each.rows, each.evaluated_on) for each in split.sets)
    evaluated = {
        prompt
        for rows, evaluated_on in ((split.evaluation, split.evaluated_on), *sets)
        for prompt in compress(rows.prompts, evaluated_on)
    }
    leaked = [
        count > 0 and prompt in evaluated for prompt, count in zip(split.train.prompts, split.trained_on, strict=True)
    ]
    return sum(split.train.row_times(leaked))


def _one_by_one(report: RowReport) -> OneByOne | None:
    if not report.answer_rows:
        return None
    return OneByOne(rows=report.answer_rows, samples=report.answer_samples, dropped=dict(report.answers_left_out))
