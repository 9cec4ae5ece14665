"""How long each part took, told while it runs and as a table at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass
class Timings:
    """A stopwatch for named parts. Parts may run side by side."""

    console: Console
    parts: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part and say that it runs."""
        self.console.print(f"[bold]{name}[/bold] ...")
        began = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - began
        self.console.print(f"[bold]{name}[/bold] took {self.parts[name]:.1f} s")

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def table(self) -> Table:
        """All parts and the total, in seconds."""
        table = Table(title="Where the time went")
        table.add_column("part")
        table.add_column("seconds", justify="right")
        for name, seconds in self.parts.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("[bold]in all (some parts ran side by side)", f"[bold]{self.total:.1f}")
        return table
