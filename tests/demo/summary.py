"""What came out of a run: figures of base and adapter, where the adapter is, and their answers side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

QUESTION_LINES = 3


def show(run: dict[str, Any], evaluation: dict[str, Any], console: Console) -> None:
    """Print the summary of a complete run."""
    status = run["status"]
    figures, artifact = status["evaluation"], status["artifact"]
    table = Table(title=f"{figures['rows']} held-out rows")
    for column in ("", "base", "adapter"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("loss", f"{figures['baseLoss']:.3f}", f"[bold]{figures['loss']:.3f}")
    table.add_row("token accuracy", f"{figures['baseTokenAccuracy']:.1%}", f"[bold]{figures['tokenAccuracy']:.1%}")
    console.print(table)
    for sample in evaluation["samples"]:
        question = "\n".join(sample["prompt"].strip().splitlines()[-QUESTION_LINES:])
        answers = Table.grid(padding=(0, 2))
        answers.add_row("base", _escape(_first_lines(sample["base"])))
        answers.add_row("adapter", f"[bold]{_escape(_first_lines(sample['adapter']))}")
        answers.add_row("reference", f"[dim]{_escape(sample['reference'])}")
        console.print(Panel(answers, title=_escape(question.splitlines()[-1]), title_align="left"))
    console.print(f"adapter  {artifact['uri']}", soft_wrap=True, highlight=False)
    console.print(f"digest   sha256:{artifact['digest']}  ({artifact['sizeBytes'] / 2**20:.1f} MiB)", highlight=False)


def _first_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[:QUESTION_LINES])


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
