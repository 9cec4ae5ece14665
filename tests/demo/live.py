"""A LoraFineTune while it works: stage, steps, loss, tokens per second, time left, and the loss curve as a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from lora_operator import naming
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.demo.kubectl import Kubectl

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60


class RunFailed(Exception):
    """The run ended without an adapter; the message is its own."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of one status."""

    reason: str
    message: str
    progress: dict[str, Any]

    @classmethod
    def of(cls, run: dict[str, Any]) -> View:
        """The view of an object of the API server."""
        status = run.get("status", {})
        ready = condition(run, "Ready") or {"reason": "Pending", "message": "The operator has not seen the run yet."}
        return cls(reason=ready["reason"], message=ready["message"], progress=status.get("progress", {}))

    @property
    def line(self) -> str:
        """The view in one line, for logs."""
        parts = [self.reason]
        if self.progress.get("totalSteps"):
            parts += [self.progress["phase"], f"step {self.progress['step']}/{self.progress['totalSteps']}"]
        for name, key, form in (
            ("loss", "loss", "{:.3f}"),
            ("tokens/s", "tokensPerSecond", "{:.0f}"),
            ("left", "eta", "{}"),
        ):
            if self.progress.get(key) is not None:
                parts.append(f"{name} {form.format(self.progress[key])}")
        return "  ".join(parts)

    def render(self) -> Panel:
        """The view for a terminal."""
        progress = self.progress
        grid = Table.grid(padding=(0, 2))
        grid.add_row("phase", f"{self.reason}  {progress.get('phase', '')}")
        grid.add_row("step", f"{progress.get('step', 0)}/{progress.get('totalSteps', 0) or '?'}")
        grid.add_row("loss", _number(progress.get("loss"), "{:.3f}"))
        grid.add_row("tokens/s", _number(progress.get("tokensPerSecond"), "{:.0f}"))
        grid.add_row("time left", progress.get("eta") or "-")
        done = ProgressBar(total=progress.get("totalSteps") or 1, completed=progress.get("step", 0), width=CURVE_WIDTH)
        grid.add_row("", done)
        grid.add_row("", Text(sparkline([point["loss"] for point in progress.get("history", [])]), style="cyan"))
        return Panel(Group(grid, Text(self.message, style="dim")), title="LoraFineTune text-to-sql")


def watch(kubectl: Kubectl, *, namespace: str, name: str, console: Console, seconds: float) -> dict[str, Any]:
    """Show the run until it is Ready. Raises RunFailed, TimeoutError."""
    path = f"/apis/{naming.API_VERSION}/namespaces/{namespace}/{naming.RUN_PLURAL}/{name}"
    deadline = time.monotonic() + seconds
    told = "nothing"
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while time.monotonic() < deadline:
            run = kubectl.rest.get(path)
            if run is None:
                raise RunFailed(f"{namespace}/{name} was deleted.")
            view = View.of(run)
            live.update(view.render())
            if not console.is_terminal and view.line != told:
                console.print(view.line, highlight=False)
            told = view.line
            if is_true(run, "Ready"):
                return run
            if is_true(run, "Finished"):
                raise RunFailed(f"{view.reason}: {view.message}")
            time.sleep(1)
    raise TimeoutError(f"{namespace}/{name} was not done after {seconds:.0f} s; the last thing seen was: {told}")


def condition(run: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """One condition of the run."""
    return next((entry for entry in run.get("status", {}).get("conditions", []) if entry["type"] == kind), None)


def is_true(run: dict[str, Any], kind: str) -> bool:
    """Whether the condition is True."""
    return (condition(run, kind) or {}).get("status") == "True"


def sparkline(values: list[float]) -> str:
    """The values as a row of blocks, the newest CURVE_WIDTH of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values[-CURVE_WIDTH:])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
