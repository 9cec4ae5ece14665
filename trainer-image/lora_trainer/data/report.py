"""Counts what happened to the rows: bad ones by place, dropped ones by reason, lengths in tokens. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lora_trainer.contract import outcome
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import MAX_BUCKETS, DroppedRows, LengthBucket, Lengths
from lora_trainer.contract.wire import WireModel
from lora_trainer.errors import TrainerError

SHOWN_BAD_ROWS = 3
REPORTED_BAD_ROWS = 100
BUCKETS = tuple(32 * 2**exponent for exponent in range(MAX_BUCKETS))
"""Upper bounds of the length histogram; the last is the largest model.maxSeqLength."""


class DropReason(StrEnum):
    """Why a row is not trained on."""

    BAD_ROW = outcome.BAD_ROW
    """It cannot be used; allowed by dataset.maxBadFraction."""
    TOO_LONG = "TooLong"
    """Longer than model.maxSeqLength, with dataset.overlength: Drop."""
    EMPTY_ANSWER = "EmptyAnswer"
    """There is nothing in it to learn."""
    NOTHING_TO_TRAIN = "NothingToTrain"
    """No token counts in the loss, for example because truncation cut the answer away."""
    NOT_DRAWN = "NotDrawn"
    """The weight of its source is below 1."""
    IN_EVALUATION = "InEvaluationSet"
    """The same row is evaluated on."""


class BadRow(WireModel):
    """A row that cannot be used."""

    where: str
    """File and line (or row)."""
    reason: str
    """Why: the end of a sentence."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class BadRows:
    """Rows that cannot be used: all are counted, the first are kept."""

    count: int = 0
    first: list[BadRow] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Note a row."""
        self.count += 1
        if len(self.first) < REPORTED_BAD_ROWS:
            self.first.append(BadRow(where=where, reason=reason))

    def limit(self, *, rows: int, largest_share: float, report: str) -> None:
        """Raise DatasetInvalid, with the first of them, where more than `largest_share` of all `rows` are bad.

        `report` is where the others are listed.
        """
        if self.count <= rows * largest_share:
            return
        allowed = f", but dataset.maxBadFraction allows {largest_share:g}" if largest_share else ""
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"{self.count} of {rows} rows of the dataset cannot be used{allowed}: {self.shown()}.",
            "Correct or remove these rows, set dataset.format and dataset.columns, or raise dataset.maxBadFraction to"
            f" leave them out. {report} lists the first {REPORTED_BAD_ROWS}.",
        )

    def shown(self) -> str:
        """The first few, for a message."""
        more = f"; and {self.count - SHOWN_BAD_ROWS} more" if self.count > SHOWN_BAD_ROWS else ""
        return "; ".join(map(str, self.first[:SHOWN_BAD_ROWS])) + more


@dataclass
class RowReport:
    """What prepare counted while it tokenised."""

    dropped: Counter[DropReason] = field(default_factory=Counter)
    truncated: int = 0
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of every sample with an answer, before any limit."""
    answer_rows: int = 0
    """Rows that became one sample for each of their answers."""
    answer_samples: int = 0
    """What they became."""
    answers_left_out: Counter[DropReason] = field(default_factory=Counter)
    """Samples of these rows that are not used, by reason."""

    def note_answers(self, *, samples: int, left_out: Sequence[DropReason]) -> None:
        """Note a row that became one sample for each of its answers."""
        self.answer_rows += 1
        self.answer_samples += samples
        self.answers_left_out.update(left_out)

    def dropped_rows(self) -> tuple[DroppedRows, ...]:
        """By reason, the most frequent first."""
        return tuple(DroppedRows(reason=reason, rows=rows) for reason, rows in self.dropped.most_common())


def length_figures(lengths: Sequence[int]) -> Lengths:
    """Median, 95th percentile and maximum by nearest rank; zeros where there is no row."""
    ordered = sorted(lengths)
    if not ordered:
        return Lengths(p50=0, p95=0, max=0)

    def percentile(share: int) -> int:
        return ordered[max(0, -(-len(ordered) * share // 100) - 1)]

    return Lengths(p50=percentile(50), p95=percentile(95), max=ordered[-1])


def histogram(lengths: Sequence[int]) -> tuple[LengthBucket, ...]:
    """Rows per bucket of lengths, from the first bucket with rows to the last; what is longer counts in the last."""
    counts = Counter(min(bisect_left(BUCKETS, length), MAX_BUCKETS - 1) for length in lengths)
    if not counts:
        return ()
    used = range(min(counts), max(counts) + 1)
    return tuple(LengthBucket(up_to=BUCKETS[index], rows=counts[index]) for index in used)
