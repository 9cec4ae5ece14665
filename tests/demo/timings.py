"""How long each part took, told while it runs and as a table at the end; and which parts failed."""

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
    failed: dict[str, Exception] = field(default_factory=dict)
    """What ended a part, by the part's name."""
    began: float = field(default_factory=time.monotonic)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part and say that it runs. One that fails says so at once, for others may go on for minutes."""
        self.console.print(f"[bold]{name}[/bold] ...")
        began = time.monotonic()
        try:
            yield
        except Exception as problem:
            self.failed[name] = problem
            self.console.print(f"[bold red]{name}[/bold red] failed after {time.monotonic() - began:.1f} s")
            raise
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
