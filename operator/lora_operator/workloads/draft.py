"""The input of the pod builders: the request that shapes a pod, and the draft that transforms add to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lora_trainer.contract.progress import PORT

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.api.lorafinetuneclass import PrepareSpec, TrainSpec
from lora_operator.naming import Stage
from lora_operator.workloads.resolved import ResolvedRun

PORT_NAME = "progress"
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """Everything that shapes the pod of one attempt."""

    run: LoraFineTune
    resolved: ResolvedRun
    stage: Stage
    attempt: int
    oom_shrinks: int = 0
    """How often the micro-batch that prepare chose is halved."""

    @property
    def nodes(self) -> int:
        """Pods of the attempt; only train may have several."""
        return self.resolved.run_file.parallelism.nodes if self.stage is Stage.TRAIN else 1

    @property
    def of_stage(self) -> PrepareSpec | TrainSpec:
        """What the class sets for the pods of the stage. Cleanup pods get the image and scheduling of prepare
        pods."""
        spec = self.resolved.class_spec
        return spec.train if self.stage is Stage.TRAIN else spec.prepare


@dataclass(frozen=True, kw_only=True)
class PodDraft:
    """A pod template under construction, to which the transforms add."""

    args: tuple[str, ...] = ()
    env: tuple[Entry, ...] = ()
    volumes: tuple[Entry, ...] = ()
    mounts: tuple[Entry, ...] = ()
    ports: tuple[Entry, ...] = ({"name": PORT_NAME, "containerPort": PORT},)
    subdomain: str | None = None
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    service_account: str | None = None
    grace_seconds: int = 10
    """Only a train pod has something to lose."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the pod's spec that say where it runs."""

    def plus(
        self, *, env: tuple[Entry, ...] = (), volumes: tuple[Entry, ...] = (), mounts: tuple[Entry, ...] = ()
    ) -> PodDraft:
        """The draft with more environment, volumes and mounts."""
        return replace(self, env=self.env + env, volumes=self.volumes + volumes, mounts=self.mounts + mounts)


Transform = Callable[[PodDraft, StageRequest], PodDraft]
