"""The scripted trainer: speaks the real contract and plays the scenario that the last part of dataset.uri names.

Endings such as running out of GPU memory cannot be had on demand from the real trainer on a machine without a GPU; what
the operator does about them can be shown with this one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import artifact_uri
from lora_trainer.contract.outcome import (
    Artifact,
    Chosen,
    DatasetFigures,
    Estimate,
    Evaluation,
    Lengths,
    ModelFigures,
    Outcome,
    PrepareResult,
    TrainResult,
    Usage,
    encode_outcome,
)
from lora_trainer.contract.progress import PORT, LossPoint, Phase, Progress
from lora_trainer.contract.run import RunFile, run_digest

DIGEST = "0" * 64
STEPS = 10
STOP_REQUESTED = threading.Event()
TURNS = itertools.count()


def figures() -> DatasetFigures:
    """A small data set."""
    lengths = Lengths(p50=10, p95=20, max=30)
    return DatasetFigures(
        format="Text", rows=8, kept=7, held_out=1, tokens=70, trained_token_share=1.0, lengths=lengths, digest=DIGEST
    )


def prepare_result(run: RunFile) -> PrepareResult:
    """What a prepare that went well reports."""
    return PrepareResult(
        run_digest=run_digest(run, data_digest=DIGEST, model_revision=run.identity.uid),
        dataset=figures(),
        model=ModelFigures(revision=run.identity.uid, parameters=1000, architecture="Scripted"),
        estimate=Estimate(memory_gib=1.0, fits=True, per_device_train_batch_size=4, gradient_accumulation_steps=2),
        chosen=Chosen(
            max_steps=STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=2e-4,
            save_steps=1,
            packing=False,
            optim="adamw_torch_fused",
            dtype="bfloat16",
        ),
    )


def train_result(run: RunFile) -> TrainResult:
    """What a train that went well reports."""
    return TrainResult(
        artifact=Artifact(uri=artifact_uri(run, DIGEST), digest=DIGEST, size_bytes=1),
        evaluation=Evaluation(rows=1, base_loss=2.0, loss=1.0, base_token_accuracy=0.5, token_accuracy=0.75),
        usage=Usage(train_seconds=1.0, tokens_per_second=70.0, peak_memory_gib=1.0),
    )


def answer_soundly(handler: BaseHTTPRequestHandler) -> None:
    """Answer with some progress."""
    history = (LossPoint(step=4, loss=1.5),)
    progress = Progress(phase=Phase.TRAINING, step=4, total_steps=STEPS, loss=1.5, eta_seconds=42, history=history)
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(progress.model_dump_json(by_alias=True, exclude_none=True).encode())


def answer_with_nonsense(handler: BaseHTTPRequestHandler) -> None:
    """Answer each time with something else that no trainer says."""
    turn = next(TURNS) % 5
    if turn == 0:
        handler.send_response(302)
        handler.send_header("Location", "http://127.0.0.1:8080/elsewhere")
        handler.end_headers()
        return
    handler.send_response(200)
    handler.end_headers()
    if turn == 1:
        handler.wfile.write(b'{"phase": "Training", "step": 1e999, "loss": NaN}')
    elif turn == 2:
        handler.wfile.write(b"[" * 60_000)
    elif turn == 3:
        handler.wfile.write(json.dumps({"phase": "Training", "checkpoint": "\x1b[2J" * 9_000}).encode())
    while turn == 4:
        handler.wfile.write(b"x" * 65_536)


def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
    """Answer requests for progress from threads."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            del format, args  # one line per poll would drown the log

    threading.Thread(target=ThreadingHTTPServer(("", PORT), Handler).serve_forever, daemon=True).start()


def end(
    code: ExitCode, message: str, *, result: PrepareResult | TrainResult | None = None, step: int | None = None
) -> int:
    """Write the termination message."""
    remedy = None if code == ExitCode.Succeeded else "This is a script; nothing is to be mended."
    outcome = Outcome(reason=code.name, message=message, remedy=remedy, step=step, result=result)
    Path("/dev/termination-log").write_text(encode_outcome(outcome))
    return int(code)


def succeed(run: RunFile) -> int:
    """Train well."""
    return end(ExitCode.Succeeded, "Done.", result=train_result(run), step=STEPS)


def run_out_of_memory_twice(run: RunFile, arguments: argparse.Namespace) -> int:
    """Out of GPU memory until the micro-batch was halved twice."""
    if arguments.oom_shrinks < 2:
        return end(ExitCode.OutOfMemory, f"Out of GPU memory with micro-batch {4 >> arguments.oom_shrinks}.", step=0)
    return succeed(run)


def fail_storage_once(run: RunFile, arguments: argparse.Namespace) -> int:
    """The store is away for the first attempt."""
    if arguments.attempt == 1:
        return end(ExitCode.StorageUnavailable, "The object store does not answer.", step=3)
    return succeed(run)


def wait_for_stop(run: RunFile, arguments: argparse.Namespace) -> int:
    """Work until asked to stop, and finish at the next attempt."""
    if arguments.attempt > 1:
        return succeed(run)
    if STOP_REQUESTED.wait(timeout=600):
        return end(ExitCode.Interrupted, "Stopped on request after a checkpoint.", step=4)
    return end(ExitCode.InternalError, "Nobody asked this script to stop.")


def work(run: RunFile, _: argparse.Namespace, *, seconds: float) -> int:
    """Work for a while and then succeed; a request to stop ends it with a checkpoint."""
    if STOP_REQUESTED.wait(timeout=seconds):
        return end(ExitCode.Interrupted, "Stopped on request after a checkpoint.", step=4)
    return succeed(run)


def run_out_of_memory_beside(run: RunFile, arguments: argparse.Namespace) -> int:
    """Out of GPU memory on the second node at the first attempt."""
    if arguments.attempt == 1 and os.environ["JOB_COMPLETION_INDEX"] == "1":
        return end(ExitCode.OutOfMemory, "Out of GPU memory.", step=4)
    return wait_for_stop(run, arguments)


def turn_deaf(_run: RunFile, _: argparse.Namespace) -> int:
    """Work on although asked to stop, for as long as the kubelet lets it."""
    threading.Event().wait(600)
    return end(ExitCode.InternalError, "Nobody ended this script.")


def hog_memory(_run: RunFile, _: argparse.Namespace) -> int:
    """Use more memory than any limit."""
    hoard = []
    while True:
        hoard.append(bytearray(64 * 2**20))


def die(_run: RunFile, arguments: argparse.Namespace) -> int:
    """Die without a termination message at the first attempt."""
    if arguments.attempt == 1:
        os._exit(128 + signal.SIGKILL)  # the kernel does not let the first process of a container kill itself
    return succeed(_run)


def hang_once(run: RunFile, arguments: argparse.Namespace) -> int:
    """At the first attempt: no thread of Python's ever runs again, as in a driver that never returns."""
    while arguments.attempt == 1:
        ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock
    return succeed(run)


def end_with_nonsense(_run: RunFile, _: argparse.Namespace) -> int:
    """Leave a termination message that no trainer writes."""
    outcome = {"reason": "\x1b[31m" + "A" * 600, "message": "<script>\u202e" * 200, "step": 10**30}
    Path("/dev/termination-log").write_text(json.dumps(outcome))
    return int(ExitCode.DatasetInvalid)


TRAIN_SCENARIOS: dict[str, Callable[[RunFile, argparse.Namespace], int]] = {
    "ok": lambda run, _: succeed(run),
    "diverged": lambda _, __: end(ExitCode.Diverged, "The loss is not a number at step 3.", step=3),
    "oom-twice": run_out_of_memory_twice,
    "oom-beside": run_out_of_memory_beside,
    "oom-always": lambda _, __: end(ExitCode.OutOfMemory, "Out of GPU memory.", step=0),
    "storage-once": fail_storage_once,
    "storage-always": lambda _, __: end(ExitCode.StorageUnavailable, "The object store does not answer.", step=3),
    "bug": lambda _, __: end(ExitCode.InternalError, "ZeroDivisionError in scripted.py line 1."),
    "silent": lambda _, __: 0,
    "until-stopped": wait_for_stop,
    "short": partial(work, seconds=15),
    "long": partial(work, seconds=45),
    "deaf": turn_deaf,
    "hog": hog_memory,
    "die-once": die,
    "hang-once": hang_once,
    "hostile-progress": partial(work, seconds=45),
    "hostile-ending": end_with_nonsense,
}


def main() -> int:
    """Play one stage of one scenario."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("prepare", "train"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--oom-shrinks", type=int, default=0)
    parser.add_argument("--first-node", default="")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: STOP_REQUESTED.set())
    run = RunFile.model_validate_json(arguments.run.read_text())
    scenario = (run.dataset.uri or "").rsplit("/", 1)[-1]
    serve(answer_with_nonsense if scenario == "hostile-progress" else answer_soundly)
    if arguments.stage == "prepare":
        if scenario == "dataset-invalid":
            return end(ExitCode.DatasetInvalid, "train.jsonl line 3 is not JSON: Expecting value.")
        if scenario == "slow-prepare":
            STOP_REQUESTED.wait(timeout=60)
        return end(ExitCode.Succeeded, "Prepared.", result=prepare_result(run))
    return TRAIN_SCENARIOS[scenario](run, arguments)


if __name__ == "__main__":
    sys.exit(main())
