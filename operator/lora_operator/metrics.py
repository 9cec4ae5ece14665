"""Prometheus metrics of the operator."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.reasons import Reason

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Every figure that the operator exposes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "lora_operator_reconcile_seconds",
            "Duration of one turn.",
            ["result"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_depth = Gauge("lora_operator_queue_depth", "Runs that wait for a worker.", registry=self.registry)
        self.leader = Gauge("lora_operator_leader", "1 in the operator that acts.", registry=self.registry)
        self.runs = Gauge("lora_operator_runs", "LoraFineTunes known.", registry=self.registry)
        self.api_requests = Counter(
            "lora_operator_api_requests",
            "Requests to the API server.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.transitions = Counter(
            "lora_operator_transitions", "Runs that came to a reason.", ["namespace", "reason"], registry=self.registry
        )
        self.progress_writes = Counter(
            "lora_operator_progress_writes", "Status writes that told of progress only.", registry=self.registry
        )
        self.adapters = Counter(
            "lora_operator_adapters_published", "Adapters published.", ["namespace"], registry=self.registry
        )
        self.accelerator_seconds = Counter(
            "lora_operator_accelerator_seconds",
            "Accelerator seconds of finished runs.",
            ["namespace"],
            registry=self.registry,
        )

    def transition(self, *, namespace: str, reason: str, status: LoraFineTuneStatus) -> None:
        """A run came to a new reason."""
        self.transitions.labels(namespace, reason).inc()
        if reason == Reason.ADAPTER_PUBLISHED:
            self.adapters.labels(namespace).inc()
        if status.terminal and status.usage is not None:
            self.accelerator_seconds.labels(namespace).inc(status.usage.accelerator_seconds)
