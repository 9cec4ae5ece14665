"""The namespaces whose runs an operator reconciles, in the terms of list and watch requests."""

from __future__ import annotations

from dataclasses import dataclass

from lora_operator.kube.gateway import Resource


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The whole cluster without some namespaces, or some namespaces only."""

    only: tuple[str, ...] = ()
    """Empty: the whole cluster."""
    excluded: tuple[str, ...] = ()

    @property
    def clusterwide(self) -> bool:
        """Whether requests are for the whole cluster."""
        return not self.only

    def namespaces(self, resource: Resource) -> tuple[str | None, ...]:
        """The namespaces to list one by one; None stands for the whole cluster."""
        return self.only if self.only and resource.namespaced else (None,)

    def fields(self, resource: Resource) -> str:
        """The field selector that leaves out the excluded namespaces."""
        excluded = self.excluded if resource.namespaced else ()
        return ",".join(f"metadata.namespace!={name}" for name in excluded)
