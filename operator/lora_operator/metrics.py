"""All Prometheus metrics of the operator. docs/reference/metrics.md lists them, and a test compares the two.

Labels are bounded: no names of runs, pods or nodes, and only known reasons of those that trainers report.

Counters start at 0 with all labels that are known beforehand, and those of a namespace when its first run is
reconciled. Prometheus finds no increase in a series that starts with its first event, so an alert would miss it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from lora_trainer.contract.exits import KILLED, ExitCode
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lora_operator.api.lorafinetune import Attempt, LoraFineTuneStatus, StoredRun
from lora_operator.api.reasons import Reason
from lora_operator.naming import Stage
from lora_operator.planning.status import ready_reason

RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FIRST_STEP_BUCKETS = (30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200, 86_400)

RESULTS = ("ok", "conflict", "api_error", "bug", "cancelled")
"""Of reconciles."""
POLL_RESULTS = ("answered", "failed")
FAILED_CODES = (0, 429, 500, 503, 504)
"""Codes of failed requests that occur in practice."""
NOT_SEEN = "Pending"
"""Reason label of a run that has no status yet."""
OTHER = "Other"
"""Label for reasons that are not listed, which a trainer image of another version may report."""
KNOWN_REASONS = frozenset({*Reason, *(code.name for code in ExitCode), KILLED, NOT_SEEN})

RunCounts = Callable[[], Mapping[tuple[str, str | None], int]]
"""Counts runs by namespace and reason."""

disable_created_metrics()  # a second series for each counter, which nothing reads


class Metrics:
    """All metrics that the operator exposes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._namespaces: set[str] = set()
        self._requests: set[tuple[str, str]] = set()
        """Those whose counters exist."""
        ProcessCollector(registry=registry)
        self.leader = Gauge("lora_operator_leader", "1 in the operator that leads, 0 in others.", registry=registry)
        self.queue_depth = Gauge(
            "lora_operator_queue_depth",
            "Runs that wait for a worker; 0 in an operator that does not lead.",
            registry=registry,
        )
        self.foreign_objects = Gauge(
            "lora_operator_foreign_objects",
            "Jobs and pods that have labels of the operator and are not its own. The operator ignores them.",
            registry=registry,
        )
        self.reconcile_seconds = Histogram(
            "lora_operator_reconcile_seconds",
            f"Duration of one reconcile of one run. result: {', '.join(RESULTS)}.",
            ["result"],
            buckets=RECONCILE_BUCKETS,
            registry=registry,
        )
        self.api_requests = Counter(
            "lora_operator_api_requests",
            "Requests to the API server, without watches. code 0: no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.loop_errors = Counter(
            "lora_operator_loop_errors",
            "Unexpected errors of the operator's own loops, each of which continues after a pause.",
            ["loop"],
            registry=registry,
        )
        self.polls = Counter(
            "lora_operator_polls",
            f"Requests to train pods for their progress. result: {', '.join(POLL_RESULTS)}.",
            ["result"],
            registry=registry,
        )
        self.progress_writes = Counter(
            "lora_operator_progress_writes", "Status writes that changed only progress.", registry=registry
        )
        self.transitions = Counter(
            "lora_operator_transitions",
            "Changes of the reason of Ready to this reason.",
            ["namespace", "reason"],
            registry=registry,
        )
        self.attempts = Counter(
            "lora_operator_attempts_ended",
            "Attempts that ended, by reason. stage: prepare, train, cleanup.",
            ["namespace", "stage", "reason"],
            registry=registry,
        )
        self.adapters = Counter(
            "lora_operator_adapters_published",
            "Adapters published, without reused ones.",
            ["namespace"],
            registry=registry,
        )
        self.accelerator_seconds = Counter(
            "lora_operator_accelerator_seconds",
            "Seconds that train pods held GPUs, times their number; counted when a pod ends. 0 on a CPU class.",
            ["namespace", "class"],
            registry=registry,
        )
        self.first_step_seconds = Histogram(
            "lora_operator_first_step_seconds",
            "Seconds from the creation of a run to its first optimizer step, time in queues and suspension included.",
            ["class"],
            buckets=FIRST_STEP_BUCKETS,
            registry=registry,
        )
        for result in RESULTS:
            self.reconcile_seconds.labels(result)
        for result in POLL_RESULTS:
            self.polls.labels(result)

    def namespace_seen(self, namespace: str) -> None:
        """Start the counters of a namespace at 0."""
        if namespace in self._namespaces:
            return
        self._namespaces.add(namespace)
        self.adapters.labels(namespace)
        for reason in (*KNOWN_REASONS, OTHER):
            self.transitions.labels(namespace, reason)
            for stage in Stage:
                self.attempts.labels(namespace, stage, reason)

    def request_ended(self, verb: str, resource: str, code: int) -> None:
        """Count a request to the API server."""
        if (verb, resource) not in self._requests:
            self._requests.add((verb, resource))
            for failed in FAILED_CODES:
                self.api_requests.labels(verb, resource, failed)
        self.api_requests.labels(verb, resource, code).inc()

    def count_runs(self, counts: RunCounts) -> None:
        """Expose the number of runs, counted at every scrape."""
        self.registry.register(RunsByReason(counts))

    def status_written(self, run: StoredRun, status: LoraFineTuneStatus, *, now: datetime) -> None:
        """Count what changed between the run's status and `status`, which replaced it."""
        if status.class_name:
            self.accelerator_seconds.labels(run.namespace, status.class_name)
            self.first_step_seconds.labels(status.class_name)
        before, after = ready_reason(run.status), ready_reason(status)
        if before != after:
            self.transitions.labels(run.namespace, bounded(after)).inc()
        elif run.status.progress != status.progress:
            self.progress_writes.inc()
        if before != after == Reason.ADAPTER_PUBLISHED:
            self.adapters.labels(run.namespace).inc()
        for attempt in _newly_ended(run.status, status):
            self.attempts.labels(run.namespace, attempt.stage, bounded(attempt.reason)).inc()
        if (held := _accelerator_seconds(status) - _accelerator_seconds(run.status)) > 0:
            self.accelerator_seconds.labels(run.namespace, status.class_name or "").inc(held)
        if not _stepped(run.status) and _stepped(status):
            elapsed = (now - run.created).total_seconds()
            self.first_step_seconds.labels(status.class_name or "").observe(elapsed)


class RunsByReason(Collector):
    """Counts the runs at every scrape, because a gauge that is updated by events could drift."""

    def __init__(self, counts: RunCounts) -> None:
        self._counts = counts

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metric without samples."""
        yield GaugeMetricFamily(
            "lora_operator_runs",
            f"LoraFineTunes known, by the reason of Ready; {NOT_SEEN}: none yet.",
            labels=["namespace", "reason"],
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metric with its samples."""
        totals: dict[tuple[str, str], int] = {}
        for (namespace, reason), count in self._counts().items():
            key = (namespace, bounded(reason))
            totals[key] = totals.get(key, 0) + count
        for family in self.describe():
            for labels, total in totals.items():
                family.add_metric(labels, total)
            yield family


def bounded(reason: str | None) -> str:
    """The reason as a label value."""
    if reason is None:
        return NOT_SEEN
    return str(reason) if reason in KNOWN_REASONS else OTHER


def _newly_ended(before: LoraFineTuneStatus, after: LoraFineTuneStatus) -> tuple[Attempt, ...]:
    ended = {(attempt.stage, attempt.number) for attempt in before.attempts if attempt.reason is not None}
    return tuple(
        attempt
        for attempt in after.attempts
        if attempt.reason is not None and (attempt.stage, attempt.number) not in ended
    )


def _accelerator_seconds(status: LoraFineTuneStatus) -> int:
    return status.usage.accelerator_seconds if status.usage is not None else 0


def _stepped(status: LoraFineTuneStatus) -> bool:
    return status.progress is not None and status.progress.step > 0
