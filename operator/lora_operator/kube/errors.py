"""Errors of requests to the API server.

KubeError
  NotFound          404
  AlreadyExists     409 on create
  Conflict          409 on any other request: the object changed, or is not the one that was meant
  Refused           400, 403, 413, 422: the API server refuses the request and says why
  Throttled         429: retry after `retry_after` seconds
  Unavailable       5xx, a broken connection, a timeout
  Garbled           a success whose content is not what the API promises
  NotLeading        no request was sent: another operator may be the leader
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = 120.0
"""No answer may keep the operator from asking again for longer."""


class KubeError(Exception):
    """A request that failed."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.said = said
        """The API server's own message."""


class NotFound(KubeError):
    """There is no such object."""


class AlreadyExists(KubeError):
    """An object with this name already exists."""


class Conflict(KubeError):
    """The object changed since it was read, or is not the one that was meant."""


class Refused(KubeError):
    """The API server refuses the request: it is forbidden, invalid, or exceeds a quota."""


class Throttled(KubeError):
    """The API server limits the rate of requests."""


class Unavailable(KubeError):
    """The API server cannot be reached or reports an internal error."""


class Garbled(KubeError):
    """The answer is not what the API promises."""


class NotLeading(KubeError):
    """This process may not write now."""


def error_of(*, what: str, status: int, reason: str, said: str, retry_after: float | None) -> KubeError:
    """The error for an answer of the API server to the request `what`."""
    kind: type[KubeError] = KubeError
    if status == 404:
        kind = NotFound
    elif status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
    elif status in (400, 403, 413, 422):
        kind = Refused
    elif status == 429:
        kind = Throttled
    elif status >= 500:
        kind = Unavailable
    return kind(f"{what}: {said}", status=status, retry_after=retry_after, said=said)


def seconds_of(retry_after: str | None, *, now: datetime | None = None) -> float | None:
    """The seconds that a header Retry-After asks for, which is a number or a date; None for anything else."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
