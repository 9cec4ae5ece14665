"""Settings of the operator, read from the environment once and validated there."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from lora_operator.kube.scope import Scope

PREFIX = "LORA_OPERATOR_"

_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


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
    identity: str = Field(default_factory=socket.gethostname, min_length=1, max_length=253)
    """Identity of this operator in the Lease; unset: the host name, which in a pod is the pod's name."""
    namespace: str = Field(default="lora-operator-system", min_length=1, max_length=63)
    """Namespace of the Lease."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces that are served, with commas between them; unset: all."""
    exclude_namespaces: tuple[str, ...] = ()
    """Namespaces that other operators serve, with commas between them."""
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Level of the operator's own log."""

    @field_validator("watch_namespaces", "exclude_namespaces", mode="before")
    @classmethod
    def _names(cls, value: Any) -> tuple[str, ...]:
        """The names of a list. An empty one is refused: by mistake it would mean the whole cluster."""
        names = value.split(",") if isinstance(value, str) else value
        for name in names:
            if not _NAMESPACE.fullmatch(name):
                raise ValueError(f"{name!r} is no namespace. Write names with commas between them or unset it")
        return tuple(dict.fromkeys(names))

    @field_validator("exclude_namespaces")
    @classmethod
    def _is_for_all_namespaces(cls, value: tuple[str, ...], others: ValidationInfo) -> tuple[str, ...]:
        if value and others.data.get("watch_namespaces"):
            raise ValueError(f"{PREFIX}WATCH_NAMESPACES leaves out all other namespaces; set one of the two")
        return value

    @property
    def scope(self) -> Scope:
        """The namespaces whose runs this operator reconciles."""
        return Scope(only=self.watch_namespaces, excluded=self.exclude_namespaces)


def settings_from(environment: Mapping[str, str] = os.environ) -> OperatorSettings:
    """The settings from the environment. Raises pydantic.ValidationError that names the setting."""
    names = {f"{PREFIX}{name.upper()}": name for name in OperatorSettings.model_fields}
    return OperatorSettings.model_validate({names[key]: value for key, value in environment.items() if key in names})
