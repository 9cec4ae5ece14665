"""Which rows are trained on and which are evaluated on. Pure: works on the digests of rows, reads none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.data.report import DropReason
from lora_trainer.data.rows import DIGEST_BYTES, RowSet
from lora_trainer.errors import TrainerError


@dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """One of evaluation.datasets."""

    name: str
    rows: RowSet
    evaluated_on: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which rows are trained on and which are evaluated on."""

    train: RowSet
    trained_on: Sequence[int]
    """How often each row is trained on in one epoch."""
    evaluation: RowSet
    """The same as `train` where rows were held out of it."""
    evaluated_on: Sequence[bool]
    sets: Sequence[EvaluatedSet] = ()


def evaluated_sets(sets: Mapping[str, RowSet], run: RunFile) -> tuple[EvaluatedSet, ...]:
    """evaluation.datasets, of which `sets` has the rows by name, with the rows that are evaluated on."""
    return tuple(
        EvaluatedSet(
            name=named.name,
            rows=sets[named.name],
            evaluated_on=first_of_each(
                sets[named.name].digests,
                seed=run.training.seed,
                rows=run.evaluation.of_set(named).max_rows,
            ),
        )
        for named in run.evaluation.datasets
    )


def split_by_set(rows: RowSet, evaluation: RowSet, run: RunFile, *, sets: Sequence[EvaluatedSet] = ()) -> Split:
    """Evaluate on the evaluation set, and keep its rows and those of the further sets out of training. Raises
    DatasetInvalid with nothing left."""
    evaluated_on = first_of_each(evaluation.digests, seed=run.training.seed, rows=run.evaluation.max_rows)
    trained_on = _kept_out(draw(rows, run), rows, [evaluation, *(each.rows for each in sets)])
    return Split(train=rows, trained_on=trained_on, evaluation=evaluation, evaluated_on=evaluated_on, sets=sets)


def _kept_out(times: Sequence[int], rows: RowSet, separate: Sequence[RowSet]) -> list[int]:
    """How often each row is trained on without those of the separate sets, which are counted as dropped. Raises
    DatasetInvalid where none is left."""
    own = not_in(rows.digests, {digest for each in separate for digest in each.digests})
    if leaked := sum(bool(count) and not mine for count, mine in zip(times, own, strict=True)):
        rows.report.dropped[DropReason.IN_EVALUATION] += leaked
    left = [count * mine for count, mine in zip(times, own, strict=True)]
    if not any(left):
        raise TrainerError(
            ExitCode.DatasetInvalid,
            "Every row of the dataset is also in the evaluation set.",
            "Set evaluation.dataset and evaluation.datasets to other rows, or remove them to hold out rows of the"
            " dataset.",
        )
    return left


def split_by_hash(rows: RowSet, run: RunFile, *, sets: Sequence[EvaluatedSet] = ()) -> Split:
    """Hold out a share of the rows, at least one, of those that no further set has. Raises DatasetInvalid where that
    leaves nothing on either side."""
    times = draw(rows, run)
    if sets:
        times = _kept_out(times, rows, [each.rows for each in sets])
    drawn = list(compress(range(len(times)), times))
    digests = [rows.digests[index] for index in drawn]
    wanted = max(1, min(run.evaluation.max_rows, round(run.evaluation.holdout_fraction * len(drawn))))
    held = hold_out(digests, seed=run.training.seed, rows=min(wanted, len(drawn) - 1))
    held_out = set(compress(drawn, held))
    if not held_out:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row can be held out for evaluation: the dataset has {len(drawn)} rows,"
            f" {duplicates(digests)} of them repeated.",
            "Add different rows, or set evaluation.dataset.",
        )
    return Split(
        train=rows,
        trained_on=[0 if index in held_out else count for index, count in enumerate(times)],
        evaluation=rows,
        evaluated_on=[index in held_out for index in range(len(times))],
        sets=sets,
    )


def draw(rows: RowSet, run: RunFile) -> list[int]:
    """How often each row is trained on, by the weights of the sources; rows that are not at all are counted as dropped.

    A source of n rows and weight w gives round(w * n) rows, at least one: each row the same number of times, and those
    with the lowest hashes of seed and contents once more.
    """
    times = [0] * len(rows.digests)
    key = b"draw" + run.training.seed.to_bytes(8, "big")
    for number, source in enumerate(run.dataset.all_sources()):
        members = [index for index, of in enumerate(rows.source) if of == number]
        if not members:
            continue
        each, once_more = divmod(max(1, round(source.weight * len(members))), len(members))
        ordered = sorted(members, key=lambda index: hashlib.sha256(key + rows.digests[index]).digest())
        for place, index in enumerate(ordered):
            times[index] = each + (place < once_more)
    if left := times.count(0):
        rows.report.dropped[DropReason.NOT_DRAWN] += left
    return times


def hold_out(digests: Sequence[bytes], *, seed: int, rows: int) -> list[bool]:
    """Which rows are evaluated on: `rows` of them, chosen by a hash of seed and contents, so in any order of the data.

    A row that occurs in the dataset more than once is never chosen, because its duplicate would be trained on.
    """
    counts = Counter(digests)
    key = seed.to_bytes(8, "big")
    singles = sorted(
        (hashlib.sha256(key + digest).digest(), index) for index, digest in enumerate(digests) if counts[digest] == 1
    )
    chosen = {index for _, index in singles[:rows]}
    return [index in chosen for index in range(len(digests))]


def first_of_each(digests: Sequence[bytes], *, seed: int, rows: int) -> list[bool]:
    """At most `rows` of an evaluation set, none of them twice, chosen the same way."""
    key = seed.to_bytes(8, "big")
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    chosen = {
        first[digest] for digest in sorted(first, key=lambda digest: hashlib.sha256(key + digest).digest())[:rows]
    }
    return [index in chosen for index in range(len(digests))]


def duplicates(digests: Sequence[bytes]) -> int:
    """Number of rows that repeat an earlier one."""
    return len(digests) - len(set(digests))


def not_in(digests: Sequence[bytes], others: Set[bytes]) -> list[bool]:
    """For each row whether it is not among the others."""
    return [digest not in others for digest in digests]


def data_digest(trained: Iterable[bytes], *evaluated: Iterable[bytes]) -> str:
    """sha256 of the tokenised rows: those trained on in their order, then those of each set that is evaluated on."""
    digest = hashlib.sha256()
    for part in (trained, *evaluated):
        for row in part:
            digest.update(row)
        digest.update(b"\0" * (DIGEST_BYTES + 1))
    return digest.hexdigest()
