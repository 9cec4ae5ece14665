"""loss.png of a published adapter: training loss by step, and the held-out loss of base and adapter.

The same history makes the same bytes: no time, no version, no font but matplotlib's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_trainer.contract.outcome import Evaluation

SIZE_INCHES = (8, 4.5)
DOTS_PER_INCH = 110


def write_loss_curve(path: Path, *, history: Sequence[Mapping], figures: Evaluation) -> None:
    """Draw the trainer's log, one entry per step, and the two held-out losses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - prepare must work without it
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    trained = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    axes.plot(*_columns(trained), color="tab:blue", linewidth=1.2, label="training")
    if held_out:
        axes.plot(*_columns(held_out), color="tab:orange", marker="o", markersize=3, label="held-out, while training")
    axes.axhline(figures.base_loss, color="tab:gray", linestyle="--", label=f"held-out, base {figures.base_loss:.3f}")
    axes.axhline(figures.loss, color="tab:green", linestyle="--", label=f"held-out, adapter {figures.loss:.3f}")
    axes.set(xlabel="optimizer step", ylabel="loss per token (nats)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]
