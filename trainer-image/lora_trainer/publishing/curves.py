"""loss.png of a published adapter: training loss (or reward) by step, and the held-out one of base and adapter.

The same history makes the same bytes: no time, no version, no font but matplotlib's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_trainer.contract.outcome import Evaluation
from lora_trainer.contract.spec.training import Method

SIZE_INCHES = (8, 4.5)
DOTS_PER_INCH = 110


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn of a method."""

    column: str
    """Of the trainer's log."""
    label: str
    base: str | None = None
    """Field of Evaluation with the height of the base model's line."""
    adapter: str | None = None
    """The same of the adapter."""


DRAWN: Mapping[Method, Drawn] = {
    Method.SFT: Drawn(column="loss", label="loss per token (nats)", base="base_loss", adapter="loss"),
    # What DPO minimises is no loss per token, with which the held-out figures could be compared.
    Method.DPO: Drawn(column="loss", label="loss per pair"),
    Method.GRPO: Drawn(column="reward", label="mean reward", base="base_reward", adapter="reward"),
}


def write_loss_curve(path: Path, *, history: Sequence[Mapping], figures: Evaluation, method: Method) -> None:
    """Draw the trainer's log, one entry per step: of GRPO the mean reward, else the loss. The held-out figures of base
    and adapter stand beside what they can be compared with."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = DRAWN[method]
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    trained = [(entry["step"], entry[drawn.column]) for entry in history if drawn.column in entry]
    held_out = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    axes.plot(*_columns(trained), color="tab:blue", linewidth=1.2, label="training")
    if held_out:
        axes.plot(*_columns(held_out), color="tab:orange", marker="o", markersize=3, label="held-out, while training")
    for whose, field, color in (("base", drawn.base, "tab:gray"), ("adapter", drawn.adapter, "tab:green")):
        figure_of = getattr(figures, field) if field else None
        if figure_of is not None:
            axes.axhline(figure_of, color=color, linestyle="--", label=f"held-out, {whose} {figure_of:.3f}")
    axes.set(xlabel="optimizer step", ylabel=drawn.label)
    if method is Method.SFT:
        axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]
