"""`python -m lora_trainer prepare`: everything that can be found out before an accelerator is taken.

Proves the bucket writable, pins the model, reads, checks and tokenises the rows once, holds some out, sizes the run and
publishes the prepared set. Loads no weights and imports no torch.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lora_trainer.base_model import resolve_model
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import prepared_uri, work_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import DatasetFigures, PrepareResult
from lora_trainer.contract.progress import Stage
from lora_trainer.contract.run import RunFile, run_digest
from lora_trainer.contract.spec import RowFormat
from lora_trainer.data.report import BadRows, DropReason, length_figures
from lora_trainer.data.rows import (
    Limits,
    RowSet,
    data_digest,
    duplicates,
    first_of_each,
    hold_out,
    not_in,
    peek_format,
    tokenise,
)
from lora_trainer.data.sources import read_records
from lora_trainer.data.tokens import RowTokenizer, load_tokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import EVAL_ROWS, EVAL_SCHEMA, ROW_SCHEMA, TRAIN_ROWS, Prepared, copy_rows, write_prepared
from lora_trainer.reuse import reuse
from lora_trainer.sizing import DataSize, model_shape, size_run
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which rows are trained on and which are evaluated on."""

    train: RowSet
    trained_on: Sequence[bool]
    evaluation: RowSet
    evaluated_on: Sequence[bool]


def prepare(run: RunFile, *, bucket: Bucket, progress: ProgressServer, scratch: Path) -> PrepareResult:
    """Prepare one run and publish its prepared set. Raises TrainerError."""
    work = scratch / "prepare"
    shutil.rmtree(work, ignore_errors=True)
    prepared = work / "set"
    prepared.mkdir(parents=True)

    progress.update(stage=Stage.DATA)
    prove_writable(run, bucket)
    model = resolve_model(run.model, bucket=bucket, folder=work / "model")
    log.info("Model resolved", extra={"fields": model.figures.wire()})

    split, row_format, tokenizer = read_rows(run, bucket=bucket, model_folder=model.folder, work=work)
    figures = dataset_figures(split, row_format)
    log.info("Data set tokenised", extra={"fields": figures.wire()})

    longest = max(length for length, kept in zip(split.train.lengths, split.trained_on, strict=True) if kept)
    size = DataSize(rows=figures.kept, tokens=figures.tokens, longest=longest)
    estimate, chosen = size_run(run, model_shape(model.config), size)

    digest = run_digest(run, data_digest=figures.digest, model_revision=model.figures.revision)
    result = PrepareResult(
        run_digest=digest,
        dataset=figures,
        model=model.figures,
        estimate=estimate,
        chosen=chosen,
    )
    if reused := reuse(run, result, bucket):
        return reused
    copy_rows(split.train.path, prepared / TRAIN_ROWS, schema=ROW_SCHEMA, keep=split.trained_on)
    copy_rows(split.evaluation.path, prepared / EVAL_ROWS, schema=EVAL_SCHEMA, keep=split.evaluated_on)
    decided = Prepared(result=result, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    write_prepared(prepared, decided)
    uri = prepared_uri(run)
    bucket.publish_set(prepared, uri, manifest=lambda files: SetManifest(fingerprint=digest, files=files))
    log.info("Prepared set published", extra={"fields": {"uri": uri, "digest": digest}})
    return result


def prove_writable(run: RunFile, bucket: Bucket) -> None:
    """Write and delete a small object wherever the run will write. Raises StorageDenied or StorageUnavailable."""
    for folder in (work_uri(run), run.output.uri.rstrip("/")):
        probe = f"{folder}/.probe-{run.identity.uid}"
        bucket.write(probe, b"", if_absent=True)
        bucket.delete(probe)


def read_rows(run: RunFile, *, bucket: Bucket, model_folder: Path, work: Path) -> tuple[Split, RowFormat, RowTokenizer]:
    """Tokenise the data set, and the evaluation set where it has one of its own, and hold rows out where not."""
    spec, bad = run.dataset, BadRows()
    limits = Limits(train_on=run.training.sft.train_on, max_length=run.model.max_seq_length, overlength=spec.overlength)
    records = read_records(spec.uri, bucket=bucket, scratch=work, bad=bad)
    row_format, records = peek_format(records, spec, uri=spec.uri, bad=bad)
    chats = row_format is not RowFormat.TEXT
    tokenizer = load_tokenizer(model_folder, chat_template=spec.chat_template, chats=chats)
    tokenised = partial(tokenise, row_format=row_format, spec=spec, tokenizer=tokenizer, limits=limits, bad=bad)
    rows = tokenised(records, work / "rows.parquet")
    require_rows(rows, run, uri=spec.uri)
    if uri := run.evaluation.dataset_uri:
        others = read_records(uri, bucket=bucket, scratch=work, bad=bad)
        _, others = peek_format(others, spec, uri=uri, bad=bad)
        evaluation = tokenised(others, work / "evaluation.parquet")
        require_rows(evaluation, run, uri=uri)
        return split_by_set(rows, evaluation, run), row_format, tokenizer
    return split_by_hash(rows, run), row_format, tokenizer


def split_by_set(rows: RowSet, evaluation: RowSet, run: RunFile) -> Split:
    """Evaluate on the evaluation set, and keep its rows out of training. Raises DatasetInvalid with nothing left."""
    evaluated_on = first_of_each(evaluation.digests, seed=run.training.seed, rows=run.evaluation.max_rows)
    trained_on = not_in(rows.digests, set(evaluation.digests))
    if leaked := trained_on.count(False):
        rows.report.dropped[DropReason.IN_EVALUATION] += leaked
    if not any(trained_on):
        raise TrainerError(
            ExitCode.DatasetInvalid,
            "Every row of the data set is in the evaluation set too.",
            "Set evaluation.datasetUri to other rows, or leave it out to hold rows out of the data set.",
        )
    return Split(train=rows, trained_on=trained_on, evaluation=evaluation, evaluated_on=evaluated_on)


def split_by_hash(rows: RowSet, run: RunFile) -> Split:
    """Hold out a share of the rows, at least one. Raises DatasetInvalid where that leaves nothing on either side."""
    count = len(rows.digests)
    wanted = max(1, min(run.evaluation.max_rows, round(run.evaluation.holdout_fraction * count)))
    held_out = hold_out(rows.digests, seed=run.training.seed, rows=min(wanted, count - 1))
    if not any(held_out):
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row can be held out to evaluate on: the data set has {count} rows,"
            f" {duplicates(rows.digests)} of them repeated.",
            "Add different rows, or set evaluation.datasetUri.",
        )
    return Split(train=rows, trained_on=[not held for held in held_out], evaluation=rows, evaluated_on=held_out)


def require_rows(rows: RowSet, run: RunFile, *, uri: str) -> None:
    """Raise DatasetInvalid, with the reason that left out most of them, where no row is left."""
    if rows.digests:
        return
    dropped = rows.report.dropped
    reason = dropped.most_common(1)[0][0]
    lengths = rows.report.lengths
    if reason is DropReason.TOO_LONG:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row of {uri} is left: {dropped[reason]} of {rows.read} are longer than model.maxSeqLength"
            f" {run.model.max_seq_length}; the shortest has {min(lengths)} tokens, the longest {max(lengths)}.",
            f"Raise model.maxSeqLength (to {max(lengths)} for all rows), or set dataset.overlength: truncate.",
        )
    raise TrainerError(
        ExitCode.DatasetInvalid,
        f"No row of {uri} has a token that counts in the loss ({reason}: {dropped[reason]} of {rows.read} rows).",
        "Check that the rows have answers, that truncation leaves some of them, and training.sft.trainOn.",
    )


def dataset_figures(split: Split, row_format: RowFormat) -> DatasetFigures:
    """What status shows of the data set."""
    train, kept = split.train, split.trained_on
    tokens = sum(length for length, keep in zip(train.lengths, kept, strict=True) if keep)
    trained = sum(count for count, keep in zip(train.trained, kept, strict=True) if keep)
    digest = data_digest(
        (row for row, keep in zip(train.digests, kept, strict=True) if keep),
        (row for row, keep in zip(split.evaluation.digests, split.evaluated_on, strict=True) if keep),
    )
    return DatasetFigures(
        format=row_format,
        rows=train.read,
        kept=kept.count(True),
        held_out=split.evaluated_on.count(True),
        dropped=train.report.dropped_rows(),
        duplicates=duplicates(train.digests),
        tokens=tokens,
        trained_token_share=round(trained / tokens, 4),
        lengths=length_figures(train.report.lengths),
        digest=digest,
    )
