"""Counts what happened to the rows: bad ones by place, dropped ones by reason, lengths in tokens. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import DroppedRows, Lengths
from lora_trainer.errors import TrainerError

SHOWN_BAD_ROWS = 3


class DropReason(StrEnum):
    """Why a good row is not trained on."""

    TOO_LONG = "TooLong"
    """Longer than model.maxSeqLength, with dataset.overlength: drop."""
    EMPTY_ANSWER = "EmptyAnswer"
    """There is nothing in it to learn."""
    NOTHING_TO_TRAIN = "NothingToTrain"
    """No token counts in the loss, for example because truncation cut the answer away."""
    IN_EVALUATION = "InEvaluationSet"
    """The same row is evaluated on."""


@dataclass
class BadRows:
    """Rows that cannot be used. They fail the run, after all of them were counted."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Note a row; the first few are shown."""
        self.count += 1
        if len(self.shown) < SHOWN_BAD_ROWS:
            self.shown.append(f"{where}: {reason}")

    def fail_if_any(self) -> None:
        """Raise DatasetInvalid with the number of bad rows and the first few of them."""
        if not self.count:
            return
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        more = "; ..." if self.count > len(self.shown) else ""
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"{rows} of the data set cannot be used: {'; '.join(self.shown)}{more}.",
            "Correct or remove these rows, or name the format and columns in dataset.format and dataset.columns.",
        )


@dataclass
class RowReport:
    """What prepare counted while it tokenised."""

    dropped: Counter[DropReason] = field(default_factory=Counter)
    truncated: int = 0
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Tokens of every row with an answer, before any limit."""

    def dropped_rows(self) -> tuple[DroppedRows, ...]:
        """By reason, the most frequent first."""
        return tuple(DroppedRows(reason=reason, rows=rows) for reason, rows in self.dropped.most_common())


def length_figures(lengths: array[int]) -> Lengths:
    """Median, 95th percentile and maximum by nearest rank; zeros where there is no row."""
    ordered = sorted(lengths)
    if not ordered:
        return Lengths(p50=0, p95=0, max=0)

    def percentile(share: int) -> int:
        return ordered[max(0, -(-len(ordered) * share // 100) - 1)]

    return Lengths(p50=percentile(50), p95=percentile(95), max=ordered[-1])
