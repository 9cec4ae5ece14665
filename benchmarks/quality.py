"""The loss of our fast path against the plain one, on the same rows: results/quality.json and results/quality.png.

    python -m benchmarks.quality [--model FOLDER] [--rows FOLDER]    on a machine with a GPU and versitygw in the cache
    python -m benchmarks.quality --draw                              anywhere: draws the results anew

SmolLM2-135M-Instruct on Spider's text-to-SQL rows, through the trainer's own modules, all paths side by side. `fast` is
what the trainer chooses by itself: packed rows, FastModel, every layer kept, a fused optimizer. `plain` names its
opposites: padded rows, FastLanguageModel, all layers recomputed by PyTorch, one kernel after another in the optimizer.
Its step holds as many rows as fit a packed step in the mean. Which rows meet in a step cannot be the same, and that
alone moves the loss by more than 1 % (0.5176 and 0.5255 for two orders of the plain path, on an H200): each path is
taken with several seeds of the order, and the means of their held-out losses at the end may differ by 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from lora_trainer.contract.run import RunFile
from lora_trainer.evaluation.held_out import held_out_rows
from lora_trainer.libraries import environment, go_offline, versions
from lora_trainer.model import adapter_digest, compute_dtype
from lora_trainer.prepare import prepare
from lora_trainer.prepared import Prepared, read_prepared
from lora_trainer.publishing.curves import DOTS_PER_INCH, SIZE_INCHES
from lora_trainer.storage import open_bucket
from lora_trainer.telemetry import ProgressServer
from lora_trainer.training.loop import build_loop
from lora_trainer.training.selection import held_out_losses
from lora_trainer.training.start import load_trainable

from benchmarks.gpu_machine import Machine, read_machine
from tests.support.demo_assets import ensure_demo_assets
from tests.support.object_store import ObjectStore, object_store
from tests.support.runs import BUCKET, run_file

RESULTS = Path(__file__).parent / "results/quality.json"
FAST, PLAIN = "fast", "plain"
STYLES = {PLAIN: ("tab:orange", "-"), FAST: ("tab:blue", "--")}
"""Color and held-out line, in the order in which the paths are drawn: the last is on top."""
EPOCHS = 3
SEEDS = (3407, 42, 7)
ROW_TOKENS = 512
"""No row of the demo is longer."""
MOST_HELD_OUT = 134
"""All that the demo has."""
ACCUMULATION = 2
"""Of the plain path."""
MOST_PERCENT = 1.0
LIMIT_SECONDS = 400
PLAINLY = {"UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1", "UNSLOTH_BLOCK_COMPILE": "0"}
"""Else Unsloth puts unpacked rows end to end on GPUs that it has not measured, an H200 among them, and compiles the
layers where rows are padded."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the paths are prepared with."""

    store: ObjectStore
    machine: Machine
    folder: Path
    """Each path has a folder of its own in it."""


def training(*, seed: int, **named: object) -> dict[str, Any]:
    """The block of a run: what is the same in every path, and what is not."""
    return {"maxSteps": None, "numTrainEpochs": EPOCHS, "learningRate": 2e-4, "seed": seed} | named


def plain(fast: Prepared, *, seed: int) -> dict[str, dict[str, Any]]:
    """The blocks of the plain path, with as many rows in a step as the fast path's steps hold in the mean."""
    rows = fast.result.dataset.kept * EPOCHS / fast.result.chosen.max_steps
    micro_batch = max(1, round(rows / ACCUMULATION))
    batch = {"perDeviceTrainBatchSize": micro_batch, "gradientAccumulationSteps": ACCUMULATION}
    return {
        "lora": {"useGradientCheckpointing": "Enabled"},
        "training": training(seed=seed, packing=False, optim="adamw_torch", **batch),
    }


def path_name(kind: str, seed: int) -> str:
    """Of one path, and of its folder."""
    return f"{kind}-{seed}"


def prepare_path(name: str, place: Place, **blocks: Mapping[str, Any]) -> Prepared:
    """Our own prepare, whose set and run file lie in the path's folder afterwards."""
    folder = place.folder / name
    gpu = place.machine.gpu
    run = run_file(
        endpoint=place.store.endpoint,
        identity={"namespace": "benchmarks", "name": "quality", "uid": folder.name},
        model={"maxSeqLength": ROW_TOKENS},
        evaluation={"dataset": {"uri": f"s3://{BUCKET}/data/eval.jsonl"}, "maxRows": MOST_HELD_OUT},
        output={"uri": f"s3://{BUCKET}/adapters/{folder.name}"},
        accelerator={"kind": "GPU", "memoryGiB": place.machine.memory_gib} if gpu else {"kind": "CPU"},
        **blocks,
    )
    prepare(run, bucket=open_bucket(run.storage), progress=ProgressServer(port=0), scratch=folder)
    (folder / "prepare/set").rename(folder / "prepared")
    (folder / "run.json").write_text(run.model_dump_json(by_alias=True, exclude_none=True))
    return read_prepared(folder / "prepared")


def prepare_paths(place: Place) -> dict[str, Prepared]:
    """All of them; a fast one decides how the plain ones are cut."""
    found = {}
    for seed in SEEDS:
        name = path_name(FAST, seed)
        found[name] = prepare_path(name, place, training=training(seed=seed))
        blocks, name = plain(found[name], seed=seed), path_name(PLAIN, seed)
        found[name] = prepare_path(name, place, **blocks)
    return found


# --- the process of one path --------------------------------------------------------------------------------------


def train_path(folder: Path, base: Path) -> None:
    """Train the run in `folder` and leave its losses there."""
    run = RunFile.model_validate_json((folder / "run.json").read_bytes())
    # As a run begins: libraries read the variables when they are imported, and Unsloth is the first of them.
    os.environ.update(environment(kind=run.accelerator.kind, scratch=folder))
    go_offline()
    prepared, progress = read_prepared(folder / "prepared"), ProgressServer(port=0)
    chosen = compute_dtype(run, prepared.result.chosen)
    model, tokenizer = load_trainable(run, chosen, base=base, prepared=prepared, scratch=folder, progress=progress)
    held_out = held_out_rows(folder / "prepared", run, dtype=chosen.dtype, interrupted=lambda: False)
    from lora_trainer.training.callbacks import EvaluateHeldOut

    every = ceil(chosen.max_steps / EPOCHS)
    evaluate = EvaluateHeldOut(held_out.loss, every=every, early_stopping=None, progress=progress)
    trainer = build_loop(run, chosen, model=model, tokenizer=tokenizer, scratch=folder, events=[evaluate])
    start = adapter_digest(model)
    trainer.train()
    history = trainer.state.log_history
    # A fresh adapter changes nothing. Not measured before the first step: what is compiled for that step must be what
    # a run compiles.
    with model.disable_adapter():
        untrained = held_out.loss(model)
    epochs = {entry["step"]: entry["epoch"] for entry in history if "eval_loss" in entry}
    curves = {
        "adapter_at_the_start": start,
        "losses": [[entry["epoch"], entry["loss"]] for entry in history if "loss" in entry],
        "held_out": [[0, untrained], *([epochs[point.step], point.loss] for point in held_out_losses(history))],
    }
    (folder / "curves.json").write_text(json.dumps(curves))


# --- all of them --------------------------------------------------------------------------------------------------


def curves_of(name: str, *, folder: Path, base: Path) -> dict[str, Any]:
    """Train one path in a process of its own, as a process can have one of Unsloth's loaders only."""
    work = folder / name
    command = [sys.executable, "-m", "benchmarks.quality", "--path", work, "--model", base]
    variables = os.environ | (PLAINLY if name.startswith(PLAIN) else {})
    log = work / "log"
    try:
        with log.open("wb") as out:
            subprocess.run(
                command, env=variables, stdout=out, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS, check=True
            )
    except subprocess.SubprocessError as error:
        raise RuntimeError(f"{name}: {error}\n{log.read_text(errors='replace')[-4000:]}") from None
    curves = json.loads((work / "curves.json").read_text())
    print(f"{name}: held-out losses by epoch {curves['held_out']}", flush=True)
    return curves


def measure(model: Path, rows: Path) -> dict[str, Any]:
    """The results."""
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as temporary:
        work = Path(temporary)
        with object_store(work / "s3", buckets=(BUCKET,)) as store:
            os.environ.update(store.environment)
            bucket = store.folder / BUCKET
            shutil.copytree(model, bucket / "models/smollm2")
            (bucket / "data").mkdir()
            for file in ("train.jsonl", "eval.jsonl"):
                shutil.copy(rows / file, bucket / "data" / file)
            prepared = prepare_paths(Place(store=store, machine=machine, folder=work))
        # Time is not measured, so that they may share a GPU; they would only stand in each other's way on a CPU.
        with ThreadPoolExecutor(len(prepared) if machine.gpu else 1) as pool:
            waiting = {name: pool.submit(curves_of, name, folder=work, base=model) for name in prepared}
            curves = {name: each.result() for name, each in waiting.items()}
    return describe(machine, prepared) | {
        "paths": {name: chosen_of(prepared[name]) | curves[name] for name in prepared},
        "difference_percent": round(100 * (mean_loss(curves, FAST) / mean_loss(curves, PLAIN) - 1), 3),
    }


def describe(machine: Machine, prepared: Mapping[str, Prepared]) -> dict[str, Any]:
    """What the figures hold for."""
    data = next(iter(prepared.values())).result.dataset
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": machine.gpu,
        "versions": versions(),
        "epochs": EPOCHS,
        "seeds": SEEDS,
        "rows": data.kept,
        "held_out_rows": min(data.held_out, MOST_HELD_OUT),
        "tokens": data.tokens,
    }


def chosen_of(prepared: Prepared) -> dict[str, Any]:
    """How a path was cut."""
    chosen, rows = prepared.result.chosen, prepared.result.dataset.kept
    return {"rows_per_step": round(rows * EPOCHS / chosen.max_steps, 1), "chosen": chosen.wire()}


def last_losses(paths: Mapping[str, Mapping[str, Any]], kind: str) -> list[float]:
    """On the held-out rows at the end, of each seed."""
    return [paths[path_name(kind, seed)]["held_out"][-1][1] for seed in SEEDS]


def mean_loss(paths: Mapping[str, Mapping[str, Any]], kind: str) -> float:
    """Of all seeds."""
    return mean(last_losses(paths, kind))


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """All curves over epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    for kind, (color, line) in STYLES.items():
        # Only the first of a kind is named in the legend.
        names = [f"{kind}, training", f"{kind}, held-out: {mean_loss(result['paths'], kind):.4f} in the mean"]
        for seed in SEEDS:
            curves = result["paths"][path_name(kind, seed)]
            axes.plot(*columns(curves["losses"]), color=color, linewidth=0.6, alpha=0.4, label=names[0])
            axes.plot(*columns(curves["held_out"]), color=color, linestyle=line, marker="o", ms=4, label=names[1])
            names = ["", ""]
    axes.set(xlabel="epoch", ylabel="loss per token (nats)")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Of a curve."""
    return [epoch for epoch, _ in points], [loss for _, loss in points]


def require_close(result: Mapping[str, Any]) -> None:
    """Say what was found, and end where that is too much."""
    fast, slow = (", ".join(f"{loss:.4f}" for loss in last_losses(result["paths"], kind)) for kind in (FAST, PLAIN))
    found = (
        f"Held-out losses {fast} on the fast path and {slow} on the plain one:"
        f" {result['difference_percent']:+} % in the mean."
    )
    if not abs(result["difference_percent"]) <= MOST_PERCENT:  # nor where it is no number
        sys.exit(f"{found} It may be {MOST_PERCENT} %.")
    print(found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="Hugging Face folder of SmolLM2-135M-Instruct; else the demo's")
    parser.add_argument("--rows", type=Path, help="folder with train.jsonl and eval.jsonl; else the demo's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="draw what was measured")
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.path:
        train_path(arguments.path, arguments.model)
        return
    if not arguments.draw:
        model = arguments.model or ensure_demo_assets().model
        rows = arguments.rows or ensure_demo_assets().train.parent
        arguments.out.write_text(json.dumps(measure(model.resolve(), rows), indent=1) + "\n")
    result = json.loads(arguments.out.read_text())
    draw(arguments.out.with_suffix(".png"), result)
    require_close(result)


if __name__ == "__main__":
    main()
