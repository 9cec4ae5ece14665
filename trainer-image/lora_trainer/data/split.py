"""Which rows are trained on and which are evaluated on. Pure: works on digests, reads no row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress
from operator import gt

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
    """Which samples are trained on and which are evaluated on. No sample is on both sides. Where rows are held out, no
    row is either."""

    train: RowSet
    trained_on: Sequence[int]
    """How often each sample is trained on in one epoch."""
    evaluation: RowSet
    """The same as `train` where rows were held out of it."""
    evaluated_on: Sequence[bool]
    """Whether each sample is evaluated on."""
    sets: Sequence[EvaluatedSet] = ()


def evaluated_sets(sets: Mapping[str, RowSet], run: RunFile) -> tuple[EvaluatedSet, ...]:
    """evaluation.datasets, of which `sets` has the rows by name, with the samples that are evaluated on."""
    return tuple(
        EvaluatedSet(
            name=named.name,
            rows=sets[named.name],
            evaluated_on=evaluated_samples(sets[named.name], run, limit=run.evaluation.of_set(named).max_rows),
        )
        for named in run.evaluation.datasets
    )


def split_by_set(rows: RowSet, evaluation: RowSet, run: RunFile, *, sets: Sequence[EvaluatedSet] = ()) -> Split:
    """Evaluate on the evaluation set, and keep its samples and those of the further sets out of training. Raises
    DatasetInvalid with nothing left."""
    evaluated_on = evaluated_samples(evaluation, run, limit=run.evaluation.max_rows)
    trained_on = _kept_out(draw(rows, run), rows, [evaluation, *(each.rows for each in sets)])
    return Split(train=rows, trained_on=trained_on, evaluation=evaluation, evaluated_on=evaluated_on, sets=sets)


def evaluated_samples(rows: RowSet, run: RunFile, *, limit: int) -> list[bool]:
    """Whether each sample of an evaluation set is evaluated on: none of them twice, at most `limit`."""
    samples = [len(each) for each in rows.by_row(rows.digests)]
    chosen = first_of_each(rows.row_digests(), samples, seed=run.training.seed, limit=limit)
    return without_repetition(rows.digests, [row in chosen for row in rows.row])


def _kept_out(times: Sequence[int], rows: RowSet, separate: Sequence[RowSet]) -> list[int]:
    """How often each sample is trained on, of rows that are drawn so many `times`, without those of the separate sets.
    Rows that lose samples are counted as dropped. Raises DatasetInvalid where none is left."""
    own = not_in(rows.digests, {digest for each in separate for digest in each.digests})
    left = [times[row] * mine for row, mine in zip(rows.row, own, strict=True)]
    if leaked := sum(map(gt, times, rows.row_times(left))):
        rows.report.dropped[DropReason.IN_EVALUATION] += leaked
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
    times, digests = draw(rows, run), rows.row_digests()
    drawn_on = [times[row] for row in rows.row]
    if sets:
        drawn_on = _kept_out(times, rows, [each.rows for each in sets])
        times = rows.row_times(drawn_on)
    counts = Counter(compress(rows.digests, drawn_on))
    # A sample that stands in another row too would be trained on there.
    alone = [counts[digest] == 1 and count > 0 for digest, count in zip(rows.digests, drawn_on, strict=True)]
    drawn = len(times) - times.count(0)
    wanted = max(1, min(run.evaluation.max_rows, round(run.evaluation.holdout_fraction * drawn)))
    held_out = hold_out(
        digests,
        [sum(each) for each in rows.by_row(alone)],
        seed=run.training.seed,
        rows=min(wanted, drawn - 1),
        limit=run.evaluation.max_rows,
    )
    if not held_out:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row can be held out for evaluation: the dataset has {drawn} rows,"
            f" {duplicates(list(compress(digests, times)))} of them repeated.",
            "Add different rows, or set evaluation.dataset.",
        )
    return Split(
        train=rows,
        trained_on=[0 if row in held_out else count for row, count in zip(rows.row, drawn_on, strict=True)],
        evaluation=rows,
        evaluated_on=[row in held_out and mine for row, mine in zip(rows.row, alone, strict=True)],
        sets=sets,
    )


def draw(rows: RowSet, run: RunFile) -> list[int]:
    """How often each row is trained on, by the weights of the sources; rows that are not at all are counted as dropped.

    A source of n rows and weight w gives round(w * n) rows, at least one: each row the same number of times, and those
    with the lowest hashes of seed and contents once more.
    """
    digests = rows.row_digests()
    times = [0] * len(digests)
    key = b"draw" + run.training.seed.to_bytes(8, "big")
    for number, source in enumerate(run.dataset.all_sources()):
        members = [index for index, of in enumerate(rows.source) if of == number]
        if not members:
            continue
        each, once_more = divmod(max(1, round(source.weight * len(members))), len(members))
        ordered = sorted(members, key=lambda index: hashlib.sha256(key + digests[index]).digest())
        for place, index in enumerate(ordered):
            times[index] = each + (place < once_more)
    if left := times.count(0):
        rows.report.dropped[DropReason.NOT_DRAWN] += left
    return times


def hold_out(digests: Sequence[bytes], samples: Sequence[int], *, seed: int, rows: int, limit: int) -> set[int]:
    """Which rows are evaluated on: at most `rows` of them with at most `limit` samples, but one row in any case, chosen
    by a hash of seed and contents, so in any order of the data.

    `samples` says how many samples of each row are in no other row. A row of none is never chosen, because all of it
    would be trained on.
    """
    alone = [index for index, count in enumerate(samples) if count]
    return _lowest(alone, digests, samples, seed=seed, rows=rows, limit=limit)


def first_of_each(digests: Sequence[bytes], samples: Sequence[int], *, seed: int, limit: int) -> set[int]:
    """Which rows of an evaluation set are evaluated on: none of them twice, with at most `limit` samples, chosen the
    same way."""
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    return _lowest(first.values(), digests, samples, seed=seed, rows=limit, limit=limit)


def _lowest(
    candidates: Iterable[int], digests: Sequence[bytes], samples: Sequence[int], *, seed: int, rows: int, limit: int
) -> set[int]:
    key = seed.to_bytes(8, "big")
    ordered = sorted(candidates, key=lambda index: (hashlib.sha256(key + digests[index]).digest(), index))
    chosen, left = set[int](), limit
    for index in ordered[:rows]:
        if chosen and samples[index] > left:
            break
        chosen.add(index)
        left -= samples[index]
    return chosen


def without_repetition(digests: Sequence[bytes], chosen: Sequence[bool]) -> list[bool]:
    """The choice of samples without those that repeat an earlier one of it."""
    first = {digest: index for index, digest in reversed(list(compress(enumerate(digests), chosen)))}
    kept = set(first.values())
    return [index in kept for index in range(len(digests))]


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
