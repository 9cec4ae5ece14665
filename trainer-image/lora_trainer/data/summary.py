"""What status and data-report.json say of the data set. Reads the first tokenised rows back as samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice
from typing import Annotated

from pydantic import Field

from lora_trainer.contract.outcome import (
    MAX_SAMPLE,
    MAX_SAMPLES,
    DatasetFigures,
    DroppedRows,
    LengthBucket,
    Lengths,
    clip_samples,
)
from lora_trainer.contract.spec import RowFormat
from lora_trainer.contract.wire import WireModel
from lora_trainer.data.report import BadRow, histogram, length_figures
from lora_trainer.data.rows import RowSet
from lora_trainer.data.split import Split, data_digest, duplicates
from lora_trainer.prepared import read_batches

REPORTED_SAMPLE = 4000
"""Characters of a sample in data-report.json."""


class SetReport(WireModel):
    """One set of rows: those of the data set, or those of an evaluation set of its own."""

    rows: int
    """Rows read, bad ones too."""
    kept: int
    """Rows used: trained on, or evaluated on in an evaluation set."""
    dropped: tuple[DroppedRows, ...]
    """Rows left out, by reason."""
    truncated: int
    """Rows whose end was cut off at model.maxSeqLength."""
    duplicates: int
    """Rows that repeat an earlier one."""
    tokens: int
    """Tokens of the rows used."""
    trained_token_share: float
    """Share of those tokens that count in the loss."""
    lengths: Lengths
    """Row lengths in tokens before any limit."""
    histogram: tuple[LengthBucket, ...]
    """Row lengths before any limit, in buckets that double."""
    bad_rows: Annotated[tuple[BadRow, ...], Field(max_length=100)]
    """The first rows that cannot be used, with file, line and reason."""
    samples: tuple[str, ...] = ()
    """The first rows used, as the model sees them; what counts in the loss stands in \u27e6 \u27e7."""


class DataReport(WireModel):
    """data-report.json: what prepare found in the data, also where it failed."""

    train: SetReport
    """The data set."""
    evaluation: SetReport | None = None
    """The evaluation set, where the run names one."""
    held_out: int = 0
    """Rows of the data set, or of the evaluation set, that are evaluated on."""
    leaked_prompts: int = 0
    """Rows trained on that ask what a row evaluated on asks too."""


def set_report(rows: RowSet, *, used: Sequence[bool]) -> SetReport:
    """The report of one set, of whose good rows those marked in `used` are used."""
    tokens = sum(compress(rows.tokens, used))
    return SetReport(
        rows=rows.read,
        kept=used.count(True),
        dropped=rows.report.dropped_rows(),
        truncated=rows.report.truncated,
        duplicates=duplicates(rows.digests),
        tokens=tokens,
        trained_token_share=round(sum(compress(rows.trained, used)) / tokens, 4) if tokens else 0.0,
        lengths=length_figures(rows.report.lengths),
        histogram=histogram(rows.report.lengths),
        bad_rows=tuple(rows.overlong.first or rows.bad.first),
        samples=clip_samples(_samples(rows, used), REPORTED_SAMPLE),
    )


def failed_report(rows: RowSet) -> DataReport:
    """The report of a set that cannot be used."""
    return DataReport(train=set_report(rows, used=[True] * len(rows.digests)))


def data_report(split: Split) -> DataReport:
    """The report of data that can be trained on."""
    own = split.evaluation is not split.train
    return DataReport(
        train=set_report(split.train, used=split.trained_on),
        evaluation=set_report(split.evaluation, used=split.evaluated_on) if own else None,
        held_out=split.evaluated_on.count(True),
        leaked_prompts=_leaked_prompts(split),
    )


def dataset_figures(report: DataReport, split: Split, *, row_format: RowFormat, uri: str) -> DatasetFigures:
    """What status shows of the data set; `uri` is where the report stands."""
    train = report.train
    return DatasetFigures(
        format=row_format,
        rows=train.rows,
        kept=train.kept,
        held_out=report.held_out,
        dropped=train.dropped,
        duplicates=train.duplicates,
        leaked_prompts=report.leaked_prompts,
        tokens=train.tokens,
        trained_token_share=train.trained_token_share,
        lengths=train.lengths,
        digest=data_digest(
            compress(split.train.digests, split.trained_on), compress(split.evaluation.digests, split.evaluated_on)
        ),
        histogram=train.histogram,
        samples=clip_samples(train.samples, MAX_SAMPLE),
        report=uri,
    )


def _samples(rows: RowSet, used: Sequence[bool]) -> tuple[str, ...]:
    stored = (row for batch in read_batches(rows.path) for row in batch.to_pylist())
    first = islice(compress(stored, used), MAX_SAMPLES)
    return tuple(rows.encoder.show(row) for row in first)


def _leaked_prompts(split: Split) -> int:
    evaluated = set(compress(split.evaluation.prompts, split.evaluated_on))
    return sum(prompt in evaluated for prompt in compress(split.train.prompts, split.trained_on))
