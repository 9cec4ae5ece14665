"""Errors of requests to the API server.

KubeError
  NotFound          404
  AlreadyExists     409 on create
  Conflict          409 on any other request: the object changed, or is not the one that was meant
  Refused           400, 403, 413, 422: the API server refuses the request and says why
  Throttled         429: retry after `retry_after` seconds
  Unavailable       5xx, a broken connection, a timeout
  NotLeading        no request was sent: another operator may be the leader
"""

from __future__ import annotations


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
