"""Progress and metrics of a pod over HTTP, and logs as one line of JSON per record. Decides nothing."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TextIO

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from lora_trainer.contract.progress import HEALTH_PATH, MAX_HISTORY, PATH, LossPoint, Phase, Progress
from lora_trainer.redaction import redact, redacted

GAUGES = {
    "step": "Optimizer steps done",
    "total_steps": "Optimizer steps in all",
    "epoch": "Passes over the dataset done",
    "loss": "Training loss of the last step",
    "learning_rate": "Learning rate of the last step",
    "eval_loss": "Held-out loss of the last evaluation during training",
    "best_step": "Step with the lowest held-out loss so far",
    "tokens_per_second": "Non-padding tokens trained per second",
    "step_seconds": "Median seconds of a step",
    "mfu": "Model FLOPs utilisation: share of the accelerator's peak speed used for the model's arithmetic",
    "peak_memory_gib": "Peak accelerator memory so far; resident memory on a CPU class",
    "eta_seconds": "Seconds until the last step",
    "checkpoint_step": "Step of the last committed checkpoint",
}


log = logging.getLogger(__name__)


class LossHistory:
    """A loss curve of any length in at most `limit` evenly spaced points; not thread-safe."""

    def __init__(self, limit: int = MAX_HISTORY) -> None:
        self._limit = limit
        self._stride = 1
        self.points: list[LossPoint] = []

    def add(self, *, step: int, loss: float) -> None:
        """Note the loss of a step; one that lies too close to the last point is left out."""
        if self.points and step - self.points[-1].step < self._stride:
            return
        self.points.append(LossPoint(step=step, loss=loss))
        while len(self.points) > self._limit:
            self.points = self.points[::2]
            self._stride *= 2


class ProgressServer:
    """Serves /progress, /metrics and /healthz on all addresses of the pod while used as a context manager."""

    def __init__(self, *, port: int) -> None:
        """Port 0 takes a free one, see `port`."""
        self._lock = threading.Lock()
        self._progress = Progress(phase=Phase.STARTING)
        self._history = LossHistory()
        self._registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"lora_trainer_{name}", help_, registry=self._registry) for name, help_ in GAUGES.items()
        }
        self._server = _server(port, self)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_address[1]

    @property
    def progress(self) -> Progress:
        """What /progress answers now."""
        with self._lock:
            return self._progress

    def update(self, **fields: Any) -> None:
        """Set fields of Progress by name. A new `loss` becomes a point of the history at the current step."""
        with self._lock:
            values = self._progress.model_dump(exclude={"history"}) | fields
            if values["phase"] != self._progress.phase:
                log.info("Phase", extra={"fields": {"phase": values["phase"]}})
            if fields.get("loss") is not None:
                self._history.add(step=values["step"], loss=values["loss"])
            self._progress = Progress.model_validate(values | {"history": tuple(self._history.points)})
            for name, gauge in self._gauges.items():
                if (value := getattr(self._progress, name)) is not None:
                    gauge.set(value)

    def metrics(self) -> bytes:
        """The gauges in Prometheus' text format."""
        return generate_latest(self._registry)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _server(port: int, source: ProgressServer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == PATH:
                body = json.dumps(redacted(source.progress.wire())).encode()
                self._answer(200, "application/json", body)
            elif path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, source.metrics())
            elif path == HEALTH_PATH:
                self._answer(200, "text/plain", b"ok\n")
            else:
                self._answer(404, "text/plain", b"not found\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: a line per poll would hide the run's own log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    return Server(("", port), Handler)


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, ensure_ascii=False, default=str))


def configure_logging(stream: TextIO = sys.stdout) -> None:
    """Send every logger's records, from INFO on, to `stream` as lines of JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
