"""Turns errors of a model hub into messages about the run's fields. Does no I/O.

The hub's own text is never passed on, because it may contain the token.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import httpx
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError

HUB_ERRORS = (HfHubHTTPError, HFValidationError, httpx.HTTPError, OfflineModeIsEnabled, OSError)


@dataclass(frozen=True, kw_only=True)
class HubRepository:
    """The repository that was requested from the hub, and the exit codes for a refusal."""

    kind: str
    """model or dataset."""
    name: str
    revision: str | None
    field: str
    """Field of the run that names it."""
    denied: ExitCode
    missing: ExitCode
    mirrored: str
    """URI of a copy in a bucket, as an example."""


def hub_error(error: Exception, asked: HubRepository) -> TrainerError:
    """The ending for one of HUB_ERRORS."""
    kind, name = asked.kind, asked.name
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    token = (
        "the token of huggingFace.tokenSecretRef"
        if os.environ.get("HF_TOKEN")
        else "no token (huggingFace.tokenSecretRef)"
    )
    if isinstance(error, GatedRepoError) or (status in (401, 403) and not isinstance(error, RepositoryNotFoundError)):
        return TrainerError(
            asked.denied,
            f"The hub refused access to the {kind} {name}; the run used {token}.",
            f"Accept the {kind}'s licence on the hub with the token's account, and set huggingFace.tokenSecretRef.",
        )
    if isinstance(error, RepositoryNotFoundError):
        # The hub answers 401 for a private repository as for one that does not exist.
        return TrainerError(
            asked.missing,
            f"The hub has no {kind} {name}, or it is private; the run used {token}.",
            f"Correct {asked.field}, or set huggingFace.tokenSecretRef if the {kind} is private.",
        )
    if isinstance(error, RevisionNotFoundError):
        at = f" at revision {asked.revision}" if asked.revision else ""
        return TrainerError(
            asked.missing, f"The hub has no {kind} {name}{at}.", f"Correct the revision in {asked.field}."
        )
    if isinstance(error, HFValidationError):
        return TrainerError(
            asked.missing, f"{name!r} is not the name of a {kind} on the hub.", "Write it as owner/name."
        )
    detail = f"HTTP {status}" if status else type(error).__name__
    return TrainerError(
        ExitCode.HubUnavailable,
        f"The hub could not be reached for the {kind} {name} ({detail}).",
        f"Check the network from this namespace, or copy the {kind} to a bucket and name it as {asked.mirrored}.",
    )
