"""The trainer on one GPU against what people would use instead, in one table: results/gpu.json and results/gpu.md.

    python -m benchmarks.gpu measure --tokenizer FOLDER    on a machine with a GPU, as root; results so far are kept
    python -m benchmarks.gpu table                         anywhere: writes the table of the results anew

Every cell is a process of its own on the same tokenised rows, which our own prepare made: the recipes of gpu_peers.py,
and `python -m lora_trainer train` with a run file that names model, rows, output and the class's memory only. Weights
are random, of a real model's shape, in 16 bits on a volume, and loaded in NF4 with an adapter of rank 16.
Ours runs twice: the second time it finds what the first one compiled, as the next run of the same shape does.
The first steps are not timed; non-padding tokens are counted by transformers' trainer in all of them. Useful work is
counted without what is computed again (ModelShape.flops_per_token), and MFU is its share of the speed at which this
very card multiplies two random 8192 x 8192 matrices in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_trainer.contract.run import RunFile
from lora_trainer.libraries import versions
from lora_trainer.model_shape import model_shape
from lora_trainer.prepare import prepare
from lora_trainer.prepared import TRAIN_ROWS, Prepared, read_prepared
from lora_trainer.storage import open_bucket
from lora_trainer.telemetry import ProgressServer

from benchmarks.gpu_machine import CLAIM, Machine, make_model, read_machine, volume
from benchmarks.gpu_rows import ROW_TOKENS, ROWS, SEED, chats
from benchmarks.gpu_watch import Watched, Window, watch
from benchmarks.vram import SHAPES
from tests.ports import free_port
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET, run_file

RESULTS = Path(__file__).parent / "results/gpu.json"
OURS = "lora-operator"
PEERS = ("hf-padded", "hf-packed", "unsloth-notebook")
STEPS_OF_A_RUN = 1000
"""Of the run file, so that checkpoints are as rare as in a run that somebody waits for. None is taken to its end."""
LIMIT_SECONDS = 180
FIRST_TIME = Window(most=30, seconds=6)
"""Of the run that finds nothing compiled: long enough that it keeps what it compiles."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained."""

    shape: str
    rows: str
    """A name of ROWS."""

    @property
    def slug(self) -> str:
        """Of files: without spaces, which not every compiler takes."""
        return f"{self.shape}-{self.rows}".replace(" ", "-")


def runs(rows: str) -> Sequence[str]:
    """Who trains on them. Full rows are the same packed or not."""
    return [OURS, *(peer for peer in PEERS if rows != "full rows" or peer != "hf-packed")]


# --- measuring ----------------------------------------------------------------------------------------------------


def prepare_workload(
    workload: Workload, store: ObjectStore, folder: Path, machine: Machine
) -> tuple[RunFile, Prepared]:
    """The run file, and what our own prepare leaves of it in `folder`."""
    place = workload.slug
    data = store.folder / BUCKET / "data" / f"{place}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in chats(workload.rows)))
    kind = {"kind": "GPU", "memoryGiB": machine.memory_gib} if machine.gpu else {"kind": "CPU"}
    run = run_file(
        endpoint=store.endpoint,
        identity={"namespace": "benchmarks", "name": "gpu", "uid": place},
        model={"claimRef": {"name": CLAIM, "path": workload.shape}, "maxSeqLength": ROW_TOKENS},
        training={"maxSteps": STEPS_OF_A_RUN},
        dataset={"uri": f"s3://{BUCKET}/data/{place}.jsonl", "overlength": "Truncate"},
        output={"uri": f"s3://{BUCKET}/adapters/{place}"},
        accelerator=kind,
    )
    prepare(run, bucket=open_bucket(run.storage), progress=ProgressServer(port=0), scratch=folder)
    return run, read_prepared(folder / "prepare/set")


def command(row: str, run: RunFile, *, model: Path, rows: Path, folder: Path, steps: int) -> list[str | Path]:
    """What starts one row's process."""
    if row != OURS:
        script = Path(__file__).parent / "gpu_peers.py"
        paths = ["--model", model, "--rows", rows, "--folder", folder]
        return [sys.executable, script, row, *paths, "--steps", str(steps)]
    file = folder / "run.json"
    file.write_text(run.model_dump_json(by_alias=True, exclude_none=True))
    ending = ["--port", str(free_port()), "--termination-log", folder / "last-word"]
    return [sys.executable, "-m", "lora_trainer", "train", "--run", file, "--scratch", folder, *ending]


def figures(watched: Watched, window: Window, *, cell: Cell, machine: Machine) -> dict[str, Any]:
    """One row of the table."""
    data, steps = cell.prepared.result.dataset, watched.steps
    first, last = steps[window.warm_up - 1], steps[-1]
    seconds, tokens = last.time - first.time, last.tokens - first.tokens
    speed = tokens / seconds
    shape = model_shape(SHAPES[cell.workload.shape])
    work = shape.flops_per_token(cell.run.lora, row_tokens=data.tokens / data.kept)
    share = speed * work / machine.matmul_tflops / 1e12 if work and machine.matmul_tflops else None
    return {
        "tokens_per_second": round(speed),
        "trained_tokens_per_second": round(speed * data.trained_token_share),
        "mfu": round(share, 3) if share else None,
        "peak_gib": round(watched.peak_gib, 1) if watched.peak_gib else None,
        "seconds_to_first_step": round(steps[0].time - watched.began, 1),
        "joules_per_1000_tokens": round(1000 * watched.joules / tokens, 1) if watched.joules else None,
        "matmul_tflops": machine.matmul_tflops,
        "steps": len(steps) - window.warm_up,
        "tokens_per_step": round(tokens / (len(steps) - window.warm_up)),
        "losses": [steps[0].loss, last.loss],
    }


def timeline(watched: Watched) -> dict[str, float]:
    """Our own log: seconds from the start of the process to each of its phases and its first step."""
    reached: dict[str, float] = {}
    for entry in watched.log:
        name = entry.get("phase") if entry["message"] == "Phase" else entry["message"]
        if entry["message"] in ("Phase", "Attempt 1", "Compiled code fetched", "Step"):
            reached.setdefault(str(name), round(datetime.fromisoformat(entry["time"]).timestamp() - watched.began, 1))
    return reached


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A workload that was prepared."""

    workload: Workload
    run: RunFile
    prepared: Prepared
    folder: Path
    """Where prepare worked, and the runs do."""
    model: Path
    logs: Path | None
    """Where the logs of the runs are kept."""


def measure(arguments: argparse.Namespace) -> None:
    """Every row that the file of results lacks; it is written anew after each."""
    window = Window()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as temporary, volume(arguments.models) as models:
        work = Path(temporary)
        machine = read_machine()
        compile_bytecode()
        result = read(arguments.out) | describe(machine, window)
        with object_store(work / "s3", buckets=(BUCKET,)) as store:
            os.environ.update(store.environment)
            for workload in (Workload(shape=shape, rows=rows) for shape in arguments.shapes for rows in ROWS):
                done = [entry["row"] for entry in result["rows"] if entry.items() >= asdict(workload).items()]
                missing = [row for row in runs(workload.rows) if row not in done]
                if not missing or time.monotonic() > arguments.until:
                    continue
                model, folder = models / workload.shape, work / workload.slug
                make_model(workload.shape, model, arguments.tokenizer)
                run, prepared = prepare_workload(workload, store, folder, machine)
                cell = Cell(
                    workload=workload, run=run, prepared=prepared, folder=folder, model=model, logs=arguments.logs
                )
                for row in missing:
                    if time.monotonic() > arguments.until:
                        break
                    entry = asdict(workload) | {"row": row} | measure_row(row, cell, window=window, machine=machine)
                    print(json.dumps(entry), flush=True)
                    if "failed" not in entry:
                        result["rows"].append(entry)
                        write(arguments.out, result)


def measure_row(row: str, cell: Cell, *, window: Window, machine: Machine) -> dict[str, Any]:
    """Figures of one row, or why there are none."""
    try:
        first = run_row(row, cell, window=FIRST_TIME) if row == OURS else None
        watched = run_row(row, cell, window=window)
    except RuntimeError as error:
        return {"failed": str(error)}
    found = figures(watched, window, cell=cell, machine=machine)
    if first is None:
        return found
    chosen = next((entry for entry in watched.log if entry["message"].startswith("Attempt")), {})
    kept = {key: value for key, value in chosen.items() if key not in ("time", "level", "logger", "message")}
    return found | {
        "seconds_to_first_step": round(first.steps[0].time - first.began, 1),
        "seconds_to_first_step_again": round(watched.steps[0].time - watched.began, 1),
        "losses_of_both": [[step.loss for step in steps] for steps in (first.steps, watched.steps)],
        "chosen": kept,
        "timeline": timeline(first),
        "timeline_again": timeline(watched),
        "row_lengths": cell.prepared.result.dataset.lengths.wire(),
    }


def run_row(row: str, cell: Cell, *, window: Window) -> Watched:
    """One process. Raises RuntimeError where it does not take its steps."""
    scratch = cell.folder / row
    scratch.mkdir()
    rows = cell.folder / "prepare/set" / TRAIN_ROWS
    started = command(row, cell.run, model=cell.model, rows=rows, folder=scratch, steps=window.steps)
    try:
        return watch(started, folder=scratch, window=window, limit=LIMIT_SECONDS)
    finally:
        if cell.logs:
            shutil.copy(scratch / "log", cell.logs / f"{cell.workload.slug}-{row}.log")
        shutil.rmtree(scratch, ignore_errors=True)


def compile_bytecode() -> None:
    """Have Python keep what it compiles of the libraries, as images do: else the first run does it, or, where the user
    has Python keep nothing, every one."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", "import unsloth, trl, datasets"]
    subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=False)


def describe(machine: Machine, window: Window) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": machine.gpu,
        "versions": versions(),
        "seed": SEED,
        "warm_up_steps": window.warm_up,
    }


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


# --- the table ----------------------------------------------------------------------------------------------------

COLUMNS = {
    "tokens_per_second": "tokens/s",
    "trained_tokens_per_second": "trained tokens/s",
    "mfu": "MFU",
    "peak_gib": "peak GiB",
    "seconds_to_first_step": "s to first step",
    "seconds_to_first_step_again": "the second time",
    "joules_per_1000_tokens": "J per 1000 tokens",
}


def write(path: Path, result: Mapping[str, Any]) -> None:
    """The results, and their table beside them."""
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(result))


def table(result: Mapping[str, Any]) -> str:
    """Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    peaks = " or ".join(str(peak) for peak in sorted({entry["matmul_tflops"] or 0 for entry in result["rows"]}))
    lines = [
        f"One {result['gpu']}, {result['date']}: {versions}. Seed {result['seed']}; {result['warm_up_steps']} steps of"
        " warm-up. MFU is of what the same card reached on a large product in bfloat16 at the time"
        f" ({peaks} TFLOP/s).",
        "",
    ]
    for shape, rows in dict.fromkeys((entry["shape"], entry["rows"]) for entry in result["rows"]):
        entries = {entry["row"]: entry for entry in result["rows"] if (entry["shape"], entry["rows"]) == (shape, rows)}
        ours = entries.get(OURS, {}).get("tokens_per_second")
        lines += [f"### {shape}, {rows}", "", f"| run | {' | '.join(COLUMNS.values())} | ours is faster by |"]
        lines += ["|---" * (len(COLUMNS) + 2) + "|"]
        for name in (name for name in (*PEERS, OURS) if name in entries):
            entry = entries[name]
            times = f"{ours / entry['tokens_per_second']:.1f}x" if ours and name != OURS else ""
            cells = [name, *(_cell(column, entry.get(column)) for column in COLUMNS), times]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if column == "mfu" else f"{value:,}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure every row that the results lack")
    measuring.add_argument("--tokenizer", type=Path, required=True, help="folder with any tokenizer")
    measuring.add_argument("--out", type=Path, default=RESULTS)
    measuring.add_argument("--models", type=Path, help="folder for the models, such as one of a RAM disk")
    measuring.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llama-8b", "llama-1b"])
    measuring.add_argument("--minutes", type=float, default=math.inf, help="start no row later than this")
    measuring.add_argument("--logs", type=Path, help="keep the logs of the runs in this folder")
    tabling = commands.add_parser("table", help="write the table of the results anew")
    tabling.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        arguments.until = time.monotonic() + 60 * arguments.minutes
        measure(arguments)
    write(arguments.out, read(arguments.out))


if __name__ == "__main__":
    main()
