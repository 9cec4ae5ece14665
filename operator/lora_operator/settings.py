"""Settings of the operator, read from the environment once and validated there."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

PREFIX = "LORA_OPERATOR_"


class OperatorSettings(BaseModel):
    """What a platform team may set: LORA_OPERATOR_<NAME> in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(default=16, ge=1, le=256)
    """Runs that are reconciled in parallel."""
    resync_seconds: float = Field(default=600, ge=1, le=86_400)
    """Seconds between full LIST requests."""
    poll_seconds: float = Field(default=10, ge=0.1, le=3600)
    """Seconds between requests for a train pod's progress, while at most 500 pods train."""
    queue_poll_seconds: float = Field(default=15, ge=0.1, le=3600)
    """Seconds between requests to Kueue for the queue positions of suspended Jobs."""
    port: int = Field(default=8080, ge=1, le=65_535)
    """Port of /metrics, /healthz and /readyz."""
    namespace: str = Field(default="lora-operator-system", min_length=1, max_length=63)
    """Namespace of the Lease."""
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Level of the operator's own log."""


def settings_from(environment: Mapping[str, str] = os.environ) -> OperatorSettings:
    """The settings from the environment. Raises pydantic.ValidationError that names the setting."""
    names = {f"{PREFIX}{name.upper()}": name for name in OperatorSettings.model_fields}
    return OperatorSettings.model_validate({names[key]: value for key, value in environment.items() if key in names})
