"""`python -m lora_trainer prepare`: everything that can be checked before the run needs an accelerator.

Checks that the bucket is writable, pins the model, reads, checks and tokenises the rows once, holds out some, sizes the
run and publishes the prepared set. Does not load weights or import torch; with a model cache, it downloads weights.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lora_trainer.base_model.checks import check_length, check_targets, check_vocabulary
from lora_trainer.base_model.resolve import BaseModel, keep_model, resolve_model
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.exits import ExitClass, ExitCode, exit_class
from lora_trainer.contract.layout import data_report_uri, prepared_uri, work_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import PrepareResult
from lora_trainer.contract.progress import Phase
from lora_trainer.contract.run import MODEL_CACHE, RunFile, run_digest
from lora_trainer.contract.spec.dataset import RowFormat, SourceSpec, source_at
from lora_trainer.contract.spec.places import DataPlace
from lora_trainer.contract.spec.training import Method
from lora_trainer.data.chat_template import NO_KWARGS
from lora_trainer.data.encoders import RowEncoder, row_encoder
from lora_trainer.data.named_templates import template_source
from lora_trainer.data.prompts import system_prompt, tokenise_prompts
from lora_trainer.data.report import BadRows, DropReason
from lora_trainer.data.rows import Limits, OpenSource, RowSet, open_source, tokenise
from lora_trainer.data.split import evaluated_sets, split_by_hash, split_by_set
from lora_trainer.data.summary import Data, DataReport, data_report, dataset_figures, failed_report
from lora_trainer.data.tokens import load_tokenizer
from lora_trainer.errors import TrainerError
from lora_trainer.model_shape import model_shape
from lora_trainer.packing import DataSize
from lora_trainer.possible import require_possible
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS, Prepared, copy_rows, set_rows, write_prepared
from lora_trainer.publishing.reuse import reuse
from lora_trainer.publishing.signing import Signer, read_signer
from lora_trainer.publishing.trained_run import remember, trained_from
from lora_trainer.rewards.intake import take_rewards
from lora_trainer.sizing import size_run
from lora_trainer.storage import Bucket
from lora_trainer.telemetry import ProgressServer

log = logging.getLogger(__name__)


def prepare(
    run: RunFile, *, bucket: Bucket, progress: ProgressServer, scratch: Path, cache: Path = MODEL_CACHE
) -> PrepareResult:
    """Prepare one run and publish its prepared set. Raises TrainerError."""
    work = scratch / "prepare"
    shutil.rmtree(work, ignore_errors=True)
    prepared = work / "set"
    prepared.mkdir(parents=True)

    progress.update(phase=Phase.DATA)
    require_possible(run)
    signer = read_signer(run, os.environ.get(SIGNING_KEY_VARIABLE, ""))
    prove_writable(run, bucket)
    code_digest = take_rewards(run, prepared, bucket=bucket)
    model = resolve_model(run.model, bucket=bucket, folder=work / "model")
    if reused := reuse_from_earlier_commit(
        run, model, bucket=bucket, work=work, code_digest=code_digest, signer=signer
    ):
        return reused
    examined = examine(run, model, bucket=bucket, work=work, code_digest=code_digest)
    result = examined.result
    if reused := reuse(examined.run, result, bucket, signer=signer):
        remember(run, result, bucket)
        return reused
    keep_model(run, revision=model.figures.revision, bucket=bucket, cache=cache)
    split, tokens = examined.data.split, examined.data.tokenizer
    system = system_prompt(run.evaluation, of_rows=split.train.system.text)
    prompts = tokenise_prompts(run.evaluation.prompts, tokens, system=system, max_length=run.model.max_seq_length)
    schemas = split.train.encoder.schemas
    copy_rows(split.train.path, prepared / TRAIN_ROWS, schema=schemas.trained, times=split.trained_on)
    copy_rows(split.evaluation.path, prepared / EVAL_ROWS, schema=schemas.held_out, times=split.evaluated_on)
    for each in split.sets:
        copy_rows(each.rows.path, prepared / set_rows(each.name), schema=schemas.held_out, times=each.evaluated_on)
    decided = Prepared(
        result=result, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, prompts=prompts
    )
    write_prepared(prepared, decided)
    uri = prepared_uri(run)
    bucket.publish_set(prepared, uri, manifest=lambda files: SetManifest(fingerprint=result.run_digest, files=files))
    log.info("Prepared set published", extra={"fields": {"uri": uri, "digest": result.run_digest}})
    return result


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A run with its rows and one commit of its model."""

    run: RunFile
    """The run with model.quantization as it was decided."""
    data: Data
    result: PrepareResult


def examine(run: RunFile, model: BaseModel, *, bucket: Bucket, work: Path, code_digest: str | None) -> Examined:
    """Tokenise the rows for this model, size the run, and digest it. Raises TrainerError."""
    shape = model_shape(model.config)
    check_targets(run.lora, model.shapes)
    check_length(run.model, positions=shape.positions)
    require_mergeable(run, model.config)
    log.info("Model resolved", extra={"fields": model.figures.wire()})
    data = read_data(run, bucket=bucket, model_folder=model.folder, work=work)
    check_vocabulary(run.model, model.shapes, tokens=data.tokenizer.vocabulary_size)
    split, report = data.split, data_report(data)
    publish_report(report, run, bucket)
    figures = dataset_figures(report, split, uri=data_report_uri(run), samples=run.dataset.samples_in_status)
    log.info("Dataset tokenised", extra={"fields": figures.model_copy(update={"samples": ()}).wire()})

    drawn = zip(split.train.lengths, split.trained_on, strict=True)
    size = DataSize(lengths=[length for length, times in drawn for _ in range(times)], tokens=figures.tokens)
    estimate, chosen = size_run(run, shape, size)
    if report.train.one_by_one:
        chosen = chosen.model_copy(update={"reasons": (*chosen.reasons, report.train.one_by_one.sentence())})
    run = run.quantized(chosen.quantization)
    digest = run_digest(run, data_digest=figures.digest, model_revision=model.figures.revision, code_digest=code_digest)
    result = PrepareResult(
        run_digest=digest,
        dataset=figures,
        model=model.figures,
        estimate=estimate,
        chosen=chosen,
        code_digest=code_digest,
    )
    return Examined(run=run, data=data, result=result)


def reuse_from_earlier_commit(
    run: RunFile, model: BaseModel, *, bucket: Bucket, work: Path, code_digest: str | None, signer: Signer | None
) -> PrepareResult | None:
    """The adapter of this run from before model.revision moved on the hub, or None where rows or settings have changed
    since as well. Raises TrainerError.

    Where only the branch has moved, the run was finished and its status is lost: it must not be trained again.
    """
    commit = trained_from(run, bucket)
    if commit is None or commit == model.figures.revision:
        return None
    try:
        with TemporaryDirectory(dir=work) as folder:
            pinned = run.model.model_copy(update={"revision": commit})
            earlier = resolve_model(pinned, bucket=bucket, folder=Path(folder) / "model")
            examined = examine(run, earlier, bucket=bucket, work=Path(folder), code_digest=code_digest)
            reused = reuse(examined.run, examined.result, bucket, signer=signer)
    except TrainerError as error:
        if error.code is ExitCode.QualityGateFailed or exit_class(error.code) is not ExitClass.USER_ERROR:
            raise
        log.info("The adapter of commit %s is not reused: %s", commit, error.message)
        return None
    if reused is None:
        return None
    figures = reused.model.model_copy(update={"newer_revision": model.figures.revision})
    return reused.model_copy(update={"model": figures})


def require_mergeable(run: RunFile, config: Mapping[str, Any]) -> None:
    """Raise ConfigInvalid where a format needs the base model's 16-bit weights and it has none."""
    if run.output.formats and "quantization_config" in config:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"output.exports needs 16-bit weights for {run.output.formats[0]}, but the weights of the model"
            f" {run.model.address} are already quantised.",
            "Set model.name to the 16-bit model (training can still load it in 4 bits), or remove output.exports.",
        )


def prove_writable(run: RunFile, bucket: Bucket) -> None:
    """Write and delete a small object wherever the run will write. Raises StorageDenied or StorageUnavailable."""
    for folder in (work_uri(run), run.output.uri.rstrip("/")):
        probe = f"{folder}/.probe-{run.identity.uid}"
        bucket.write(probe, b"", if_absent=True)
        bucket.delete(probe)


def read_data(run: RunFile, *, bucket: Bucket, model_folder: Path, work: Path) -> Data:
    """Tokenise the dataset and its evaluation sets, or hold out rows where there is no evaluation set."""
    bad = BadRows()
    specs = run.dataset.all_sources()
    if not specs:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            "The run names no dataset.",
            "Set dataset.uri, dataset.configMapRef, dataset.claimRef or dataset.sources.",
        )
    opened = partial(open_sources, method=run.training.method, bucket=bucket)
    sources = opened(specs, work=work / "train", bad=bad)
    chats = any(source.row_format not in (None, RowFormat.TEXT) for source in sources)
    chat_template = template_source(run.dataset.chat_template)
    tokenizer = load_tokenizer(
        model_folder, chat_template=chat_template, chats=chats, kwargs=run.dataset.chat_template_kwargs or NO_KWARGS
    )

    def encoder(source: OpenSource) -> RowEncoder:
        return row_encoder(run, source.row_format, source.spec.columns, tokenizer=tokenizer)

    limits = row_limits(run)
    tokenised = partial(tokenise, encoder=encoder, limits=limits)
    usable = partial(require_usable, run=run, bucket=bucket)
    rows = usable(tokenised(sources, work / "rows.parquet", bad=bad), sources)

    def separate(place: DataPlace, name: str) -> tuple[RowSet, list[OpenSource]]:
        bad = BadRows()
        others = opened([run.dataset.inherited(source_at(place))], work=work / name, bad=bad)
        return usable(tokenised(others, work / f"{name}.parquet", bad=bad), others), others

    named = {each.name: separate(each, f"evaluation-{each.name}") for each in run.evaluation.datasets}
    sets = evaluated_sets({name: evaluated for name, (evaluated, _) in named.items()}, run)
    if (place := run.evaluation.dataset) is None:
        split, others = split_by_hash(rows, run, sets=sets), []
    else:
        evaluation, others = separate(place, "evaluation")
        split = split_by_set(rows, evaluation, run, sets=sets)
    return Data(
        split=split,
        tokenizer=tokenizer,
        sources=sources,
        evaluation_sources=others,
        set_sources={name: of for name, (_, of) in named.items()},
    )


def open_sources(
    specs: Sequence[SourceSpec], *, method: Method, bucket: Bucket, work: Path, bad: BadRows
) -> list[OpenSource]:
    """Find the files and format of every source. Messages name the number of the source where there are several."""
    labels = [f"sources[{number}] " if len(specs) > 1 else "" for number in range(len(specs))]
    return [
        open_source(spec, method, bucket=bucket, scratch=work / str(number), bad=bad, label=label)
        for number, (spec, label) in enumerate(zip(specs, labels, strict=True))
    ]


def row_limits(run: RunFile) -> Limits:
    """How long rows are handled; the rows of GRPO are prompts."""
    if grpo := run.training.grpo:
        field = "training.grpo.maxPromptLength"
        return Limits(max_length=grpo.max_prompt_length, field=field, overlength=run.dataset.overlength)
    return Limits(max_length=run.model.max_seq_length, overlength=run.dataset.overlength)


def require_usable(rows: RowSet, sources: Sequence[OpenSource], *, run: RunFile, bucket: Bucket) -> RowSet:
    """The rows. Where too many are bad or none is left, write the report and raise DatasetInvalid."""
    uri = ", ".join(source.spec.address for source in sources)
    try:
        if not rows.read:
            raise TrainerError(
                ExitCode.DatasetInvalid, f"The dataset {uri} has no rows.", "Upload a dataset with rows."
            )
        rows.bad.limit(rows=rows.read, largest_share=run.dataset.max_bad_fraction, report=data_report_uri(run))
        require_short(rows, run)
        require_rows(rows, run, uri=uri)
    except TrainerError:
        publish_report(failed_report(rows, sources=sources), run, bucket)
        raise
    return rows


def publish_report(report: DataReport, run: RunFile, bucket: Bucket) -> None:
    """Write data-report.json."""
    bucket.write(data_report_uri(run), report.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode())


def require_short(rows: RowSet, run: RunFile) -> None:
    """Raise DatasetInvalid where rows are too long and the run does not allow this."""
    limits = rows.limits
    if rows.overlong.count:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"{rows.overlong.count} of {rows.read} rows are longer than {limits.field} {limits.max_length}:"
            f" {rows.overlong.shown()}.",
            f"Raise {limits.field} (to {max(rows.report.lengths)} for all rows), or set dataset.overlength to Drop"
            f"{'' if run.training.grpo else ' or Truncate'}.",
        )


def require_rows(rows: RowSet, run: RunFile, *, uri: str) -> None:
    """Raise DatasetInvalid with the most frequent reason where no row is left."""
    if rows.digests:
        return
    dropped = rows.report.dropped
    reason = dropped.most_common(1)[0][0]
    lengths = rows.report.lengths
    if reason is DropReason.TOO_LONG:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row of {uri} is left: {dropped[reason]} of {rows.read} are longer than {rows.limits.field}"
            f" {rows.limits.max_length}; the shortest has {min(lengths)} tokens, the longest {max(lengths)}.",
            f"Raise {rows.limits.field} (to {max(lengths)} for all rows)"
            f"{'.' if run.training.grpo else ', or set dataset.overlength to Truncate.'}",
        )
    if reason is DropReason.BAD_ROW:
        raise TrainerError(
            ExitCode.DatasetInvalid,
            f"No row of {uri} is left: {dropped[reason]} of {rows.read} cannot be used: {rows.bad.shown()}.",
            "Correct these rows, or set dataset.format and dataset.columns.",
        )
    raise TrainerError(
        ExitCode.DatasetInvalid,
        f"No row of {uri} has a token that counts in the loss ({reason}: {dropped[reason]} of {rows.read} rows).",
        "Check that the rows have answers, that truncation does not remove them all, and training.sft.trainOn.",
    )
