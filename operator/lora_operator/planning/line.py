"""The line of runs of one namespace and class, of which only some may be active at a time.

A run takes a place with its first attempt and keeps it between attempts. It gives the place back when it ends, is
suspended, or needs a person while no pod of it may run. It then stands in line again, in the order of creation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

RECHECK = timedelta(seconds=10)
LONGEST_RECHECK = timedelta(minutes=5)
FRONT = 10
"""Number of runs at the front that look every RECHECK."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInLine:
    """Where one run of the namespace and class stands."""

    uid: str
    created: datetime
    active: bool
    """Whether it has a place."""
    waits: bool
    """Whether it was told to wait for one."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one run sees of the line."""

    has_place: bool
    """Whether the run has a place already."""
    active: int
    """Number of other runs that have one."""
    ahead: int
    """Number of other runs that wait and are older."""

    @property
    def recheck(self) -> timedelta:
        """When the run looks at the line again, because no watch tells it that another run has ended. The further back
        it stands, the later: a thousand runs in line must not cost a thousand looks every few seconds."""
        return min(RECHECK * (1 + self.ahead // FRONT), LONGEST_RECHECK)

    def admits(self, places: int) -> bool:
        """Whether the run may start. Those that are ahead may be about to."""
        return self.has_place or self.active + self.ahead < places


def line_of(run: RunInLine, others: Iterable[RunInLine]) -> Line:
    """The line as this run sees it."""
    others = tuple(others)
    mine = (run.created, run.uid)
    return Line(
        has_place=run.active,
        active=sum(other.active for other in others),
        ahead=sum(other.waits and not other.active and (other.created, other.uid) < mine for other in others),
    )
