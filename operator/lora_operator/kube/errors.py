"""What the API server may answer instead of what was asked for.

KubeError
  NotFound          404
  AlreadyExists     409 on create
  Conflict          409 on anything else: the object changed, or is another one than was meant
  Refused           400, 403, 413, 422: the API server will not do it, and says why
  Throttled         429: come back after `retry_after` seconds
  Unavailable       5xx, a broken connection, a time-out
  NotLeading        nothing was asked: another operator may be acting
"""

from __future__ import annotations


class KubeError(Exception):
    """A request that did not do what was asked."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.said = said
        """The API server's own sentence."""


class NotFound(KubeError):
    """There is no such object."""


class AlreadyExists(KubeError):
    """An object of that name is there already."""


class Conflict(KubeError):
    """The object changed since it was read, or is another one than was meant."""


class Refused(KubeError):
    """The API server will not do this: not allowed, not valid, or beyond a quota."""


class Throttled(KubeError):
    """The API server asks for a pause."""


class Unavailable(KubeError):
    """The API server cannot be reached or is in trouble."""


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
