"""`python -m lora_trainer prepare|train|cleanup|verify|export`: runs a stage, and reports its ending as an exit code
and a termination message (see contract/exits.py for what the operator does with them)."""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.manifest import Exported, Verification
from lora_trainer.contract.outcome import CleanupResult, Outcome, StageResult, TrainResult, encode_outcome
from lora_trainer.contract.progress import PORT, Progress
from lora_trainer.contract.run import RENDEZVOUS_PORT, RUN_FILE, RUN_FILE_SHA256_VARIABLE, SCRATCH, RunFile, Storage
from lora_trainer.errors import TrainerError, disk_full, is_disk_full
from lora_trainer.processes import hide_from_others
from lora_trainer.publishing.signing import Verifier, read_verifier
from lora_trainer.redaction import redacted
from lora_trainer.storage import Bucket, open_bucket
from lora_trainer.telemetry import ProgressServer, configure_logging
from lora_trainer.training.nodes import Place
from lora_trainer.training.ranks import end_with_parent
from lora_trainer.training.stopping import StopRequest

TERMINATION_LOG = Path("/dev/termination-log")
NODE_VARIABLE = "JOB_COMPLETION_INDEX"
"""Environment variable that Kubernetes sets in the pods of an Indexed Job."""
MAX_NAMED_FIELDS = 5

log = logging.getLogger("lora_trainer")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a stage ended."""

    code: ExitCode
    outcome: Outcome


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="lora_trainer", description="Prepares, trains and verifies one LoRA fine-tune.")
    stages = root.add_subparsers(dest="stage", required=True)
    pod = argparse.ArgumentParser(add_help=False)
    pod.add_argument("--port", type=int, default=PORT, help="port of the progress server")
    pod.add_argument("--termination-log", type=Path, default=TERMINATION_LOG, help="where the outcome is written")
    of_run = argparse.ArgumentParser(add_help=False, parents=[pod])
    of_run.add_argument("--run", type=Path, default=RUN_FILE, help="the run file")
    of_run.add_argument("--scratch", type=Path, default=SCRATCH, help="writable folder")
    in_bucket = argparse.ArgumentParser(add_help=False)
    in_bucket.add_argument("--endpoint", help="endpoint of the bucket; unset: AWS")
    in_bucket.add_argument("--region", help="region of the bucket; unset: AWS_REGION")
    stages.add_parser("prepare", parents=[of_run], help="validate and tokenise the data, size the run")
    train = stages.add_parser("train", parents=[of_run], help="train, evaluate, publish and verify")
    train.add_argument("--attempt", type=int, default=1, help="number of this attempt, from 1")
    train.add_argument("--oom-shrinks", type=int, default=0, help="how often the micro-batch is halved")
    train.add_argument("--first-node", default="127.0.0.1", help="address of the first of several nodes")
    train.add_argument("--rendezvous-port", type=int, default=RENDEZVOUS_PORT, help="port of the first node")
    train.add_argument("--node", type=int, default=int(os.environ.get(NODE_VARIABLE, "0")), help="number of this node")
    cleanup = stages.add_parser("cleanup", parents=[pod, in_bucket], help="delete prepared rows and checkpoints")
    cleanup.add_argument("--work", required=True, help="URI of the work folder of one finished run")
    rank = stages.add_parser("rank", help="a further process of train; train starts it")
    rank.add_argument("--run", type=Path, required=True, help="the run file")
    rank.add_argument("--scratch", type=Path, required=True, help="the folder that all processes share")
    rank.add_argument("--base", type=Path, required=True, help="folder with the base model")
    rank.add_argument("--resume", type=Path, help="folder with the checkpoint to resume from")
    rank.add_argument("--oom-shrinks", type=int, default=0, help="how often the micro-batch is halved")
    rank.add_argument("--termination-log", type=Path, required=True, help="where the outcome is written")
    verify = stages.add_parser(
        "verify", parents=[in_bucket], help="verify that a published adapter is complete, loads and works"
    )
    verify.add_argument("--artifact", required=True, help="URI of the adapter's folder")
    verify.add_argument("--base", type=Path, help="folder with the base model; unset: fetched as the manifest names it")
    verify.add_argument("--eval-rows", type=Path, help="eval.parquet of the run; its losses are measured again")
    verify.add_argument("--public-key", type=Path, help="PEM file; the manifest must be signed by this Ed25519 key")
    verify.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="writable folder")
    verify.add_argument("--manifest", type=Path, help="file with a draft of the manifest; unset: the artifact's own")
    export = stages.add_parser("export", help="write an adapter in other formats and verify each")
    export.add_argument("--adapter", type=Path, required=True, help="folder with the adapter")
    export.add_argument("--base", type=Path, required=True, help="folder with the base model")
    export.add_argument("--formats", required=True, help="merged16bit, gguf/q8_0, ...; separated by commas")
    export.add_argument("--folder", type=Path, required=True, help="output folder; temporary files go beside it")
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    faulthandler.enable()  # log a traceback when a library crashes the process
    # Libraries fork processes that make batches and end them with SIGTERM. This process blocks SIGTERM; they must not,
    # or this one would wait for them forever.
    os.register_at_fork(after_in_child=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM}))
    arguments = parser().parse_args(argv)
    hide_from_others()
    if arguments.stage in ("verify", "export"):
        configure_logging(sys.stderr)
        return _print(_verify if arguments.stage == "verify" else _export, arguments)
    configure_logging()
    if arguments.stage == "rank":
        return _rank(arguments)
    # Block SIGTERM before any thread starts, so that only StopRequest receives it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with ProgressServer(port=arguments.port) as server:
        ending = finish(lambda: _run_stage(arguments, server))
        return leave(ending, arguments.termination_log, server.progress)


def _run_stage(arguments: argparse.Namespace, server: ProgressServer) -> StageResult | None:
    if arguments.stage != "train":
        nothing_lost = TrainerError(
            ExitCode.Interrupted, f"Stopped on request in the stage {arguments.stage}; nothing was lost."
        )
        StopRequest(leave=lambda: leave_at_once(nothing_lost, arguments.termination_log, server))
    if arguments.stage == "cleanup":
        return _clean_up(arguments)
    run = read_run(arguments.run)
    bucket = open_bucket(run.storage)
    if arguments.stage == "prepare":
        from lora_trainer.prepare import prepare

        return prepare(run, bucket=bucket, progress=server, scratch=arguments.scratch)
    return _train(run, arguments, bucket, server)


def _clean_up(arguments: argparse.Namespace) -> CleanupResult:
    from lora_trainer.cleanup import clean_up

    work = arguments.work.rstrip("/")
    return clean_up(work, bucket=_bucket_of(arguments, work))


def _bucket_of(arguments: argparse.Namespace, uri: str) -> Bucket:
    """The bucket of a stage that has no run file."""
    return open_bucket(Storage(work_uri=uri, endpoint=arguments.endpoint, region=arguments.region))


def _train(run: RunFile, arguments: argparse.Namespace, bucket: Bucket, server: ProgressServer) -> TrainResult | None:
    """Run the stage train, or a further node's part of it, which has no result."""
    from lora_trainer.train import train
    from lora_trainer.training.other_ranks import train_node
    from lora_trainer.training.start import begin

    this = begin(
        run,
        bucket=bucket,
        progress=server,
        scratch=arguments.scratch,
        place=Place(
            node=arguments.node,
            nodes=run.parallelism.nodes,
            host=arguments.first_node,
            port=arguments.rendezvous_port,
        ),
        number=arguments.attempt,
        oom_shrinks=arguments.oom_shrinks,
        leave=lambda error: leave_at_once(error, arguments.termination_log, server),
    )
    return train(this) if arguments.node == 0 else train_node(this)


def _rank(arguments: argparse.Namespace) -> int:
    """Run a further process of train. Only a failure leaves a termination message, which the first process reads."""
    end_with_parent()
    try:
        from lora_trainer.training.other_ranks import train_rank

        train_rank(
            read_run(arguments.run),
            scratch=arguments.scratch,
            base=arguments.base,
            resume=arguments.resume,
            rank=int(os.environ["RANK"]),
            oom_shrinks=arguments.oom_shrinks,
        )
    except Exception as error:  # report every ending, even of a bug
        ending = ending_of(error)
        arguments.termination_log.write_text(_shown(ending.outcome))
        return ending.code
    return ExitCode.Succeeded


def _print(stage: Callable[[argparse.Namespace], Verification | Exported], arguments: argparse.Namespace) -> int:
    """Run a stage that prints its result on the last line of stdout, where a train pod that starts it reads it."""
    try:
        result = stage(arguments)
    except Exception as error:  # report every ending, even of a bug
        ending = ending_of(error)
        print(_shown(ending.outcome))
        return ending.code
    print(result.model_dump_json(by_alias=True))
    return ExitCode.Succeeded


def _verify(arguments: argparse.Namespace) -> Verification:
    from lora_trainer.verify import verify

    artifact = arguments.artifact.rstrip("/")
    return verify(
        bucket=_bucket_of(arguments, artifact),
        scratch=arguments.scratch,
        artifact=artifact,
        manifest=arguments.manifest,
        base=arguments.base,
        eval_rows=arguments.eval_rows,
        verifier=_verifier(arguments.public_key),
    )


def _export(arguments: argparse.Namespace) -> Exported:
    from lora_trainer.publishing.exports import export

    formats = arguments.formats.split(",")
    return export(arguments.adapter, base=arguments.base, formats=formats, folder=arguments.folder)


def _verifier(path: Path | None) -> Verifier | None:
    if path is None:
        return None
    try:
        return read_verifier(path.read_bytes(), name=f"The file {path}")
    except OSError as error:
        raise TrainerError(ExitCode.ConfigInvalid, f"The file {path} cannot be read: {error.strerror}.") from None


def read_run(path: Path) -> RunFile:
    """The run file. Raises ConfigInvalid that names the fields, or says that somebody replaced the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainerError(ExitCode.ConfigInvalid, f"The run file {path} cannot be read: {error.strerror}.") from None
    if os.environ.get(RUN_FILE_SHA256_VARIABLE, sha256 := hashlib.sha256(content).hexdigest()) != sha256:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"The run file {path} is not what the operator wrote: somebody replaced the ConfigMap of the run.",
            "Create another LoraFineTune, and find out who may write ConfigMaps in its namespace.",
        )
    try:
        return RunFile.model_validate_json(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        if unknown := [_place(problem) for problem in problems if problem["type"] == "extra_forbidden"]:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"The trainer image is older than the operator and does not know {_some(unknown, ', ')}.",
                "Ask the platform team to upgrade the class's image to the operator's release, or leave this unset.",
            ) from None
        named = [f"{_place(problem)}: {problem['msg']}" for problem in problems]
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"The run file is invalid: {_some(named, '; ')}.",
            "Use the operator and the trainer image of the same release.",
        ) from None


def _place(problem: ErrorDetails) -> str:
    return ".".join(map(str, problem["loc"])) or "file"


def _some(texts: Sequence[str], between: str) -> str:
    """The first of the texts, and how many more there are."""
    more = f" and {len(texts) - MAX_NAMED_FIELDS} more" if len(texts) > MAX_NAMED_FIELDS else ""
    return between.join(texts[:MAX_NAMED_FIELDS]) + more


def finish(stage: Callable[[], StageResult | None]) -> Ending:
    """Run a stage and return how it ended, also for a bug."""
    try:
        result = stage()
    except Exception as error:  # report every ending, even of a bug
        return ending_of(error)
    outcome = Outcome(reason=ExitCode.Succeeded.name, message=_done(result), result=result)
    log.info(outcome.message)
    return Ending(code=ExitCode.Succeeded, outcome=outcome)


def _done(result: StageResult | None) -> str:
    if result is None:
        return "This node took its share of every step; the first node has the result."
    if isinstance(result, CleanupResult):
        return f"{result.files} files of prepared rows and checkpoints are deleted."
    if isinstance(result, TrainResult):
        return (
            f"The adapter at {result.artifact.uri} is published and verified: it loads and changes the model's output."
        )
    if result.artifact:
        return f"An identical run has already published its adapter at {result.artifact.uri}."
    return f"{result.dataset.kept} rows are prepared for training and {result.dataset.held_out} for evaluation."


def ending_of(error: Exception) -> Ending:
    """The ending for an exception."""
    if isinstance(error, TrainerError):
        log.error(error.message, extra={"fields": {"reason": error.code.name, "remedy": error.remedy}})
        outcome = Outcome(
            reason=error.code.name,
            message=error.message,
            remedy=error.remedy,
            result=error.result,
            needed_memory_gib=error.needed_memory_gib,
        )
        return Ending(code=error.code, outcome=outcome)
    log.exception("The stage failed")
    if is_disk_full(error):
        return ending_of(disk_full())
    if is_out_of_memory(error):
        message, remedy = "The pod ran out of memory.", "Give the class more memory, or lower model.maxSeqLength."
        outcome = Outcome(reason=ExitCode.OutOfMemory.name, message=message, remedy=remedy)
        return Ending(code=ExitCode.OutOfMemory, outcome=outcome)
    # The exception's own text stays in the log: it may contain rows or credentials.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    outcome = Outcome(
        reason=ExitCode.InternalError.name,
        message=f"The trainer has a bug: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}.",
        remedy="Report it with the pod's log.",
    )
    return Ending(code=ExitCode.InternalError, outcome=outcome)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or accelerator memory ran out. torch's error is recognised by name, because torch may be missing."""
    kind = type(error)
    return isinstance(error, MemoryError) or (
        kind.__name__ == "OutOfMemoryError" and kind.__module__.startswith("torch")
    )


def _shown(outcome: Outcome) -> str:
    """The outcome as JSON, without the values of credentials."""
    return encode_outcome(Outcome.model_validate(redacted(outcome.model_dump(mode="json"))))


def leave(ending: Ending, termination_log: Path, progress: Progress) -> int:
    """Write the termination message, with the step that training reached, and return the exit code."""
    outcome = ending.outcome
    if progress.total_steps:
        reached = {
            "step": progress.step,
            "from_step": progress.resumed_from_step,
            "checkpoint": progress.checkpoint,
        }
        outcome = outcome.model_copy(update=reached)
    try:
        termination_log.write_text(_shown(outcome))
    except OSError as error:
        log.warning("The outcome could not be written to %s: %s", termination_log, error.strerror)
    return ending.code


def leave_at_once(error: TrainerError, termination_log: Path, server: ProgressServer) -> NoReturn:
    """Write the termination message and end the process at once, from any thread."""
    code = leave(ending_of(error), termination_log, server.progress)
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
