"""The system message that all rows of a dataset have in common. Keeps one text, whatever the number of rows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class SystemMessage:
    """The system message of the rows that were looked at."""

    text: str | None = None
    """The one that all of them begin with; None where two differ or one has none."""
    _first: bool = field(default=True, repr=False)

    def look_at(self, system: str | None) -> None:
        """Compare the system message of one more row, None where it has none."""
        if self._first:
            self.text, self._first = system, False
        elif system != self.text:
            self.text = None
