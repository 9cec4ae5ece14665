"""`make bench-demo`: the figures of the demo, printed and written to benchmarks/results/demo.json.

One run of the demo's LoraFineTune on the real cluster, seen from outside: operator memory, reaction times, API
writes; and what the trainer reports. Times are taken by this process when a watch tells of a change, so they include
kubectl's delay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.figures import Figure, at_least, at_most, table_of
from tests.demo.__main__ import LONGEST_RUN_SECONDS, RUN, clear_output
from tests.demo.environment import MANIFESTS, OPERATOR_NAMESPACE, TENANT, Environment, ensure_environment
from tests.demo.kubectl import Kubectl
from tests.demo.live import RunFailed, is_true
from tests.demo.timings import Timings

RESULTS = Path(__file__).parent / "results/demo.json"
Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An object as a watch told of it, and when."""

    time: float
    body: Body


class Watch:
    """`kubectl get --watch` of one kind of object."""

    def __init__(self, kubectl: Kubectl, *arguments: str) -> None:
        command = [str(kubectl.program), "--kubeconfig", str(kubectl.kubeconfig), "get", *arguments]
        self._process = subprocess.Popen([*command, "--watch", "-o", "json"], stdout=subprocess.PIPE, text=True)
        self._seen: queue.Queue[Sighting] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def first(self, matches: Callable[[Body], bool], *, seconds: float) -> Sighting:
        """The next sighting that matches. Raises queue.Empty after so many seconds without any."""
        deadline = time.monotonic() + seconds
        while True:
            sighting = self._seen.get(timeout=max(deadline - time.monotonic(), 0.01))
            if matches(sighting.body):
                return sighting

    def stop(self) -> None:
        """End kubectl."""
        self._process.terminate()
        self._process.wait()

    def _read(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        for line in self._process.stdout or ():
            text += line
            if line.rstrip() == "}":  # kubectl indents everything inside an object
                body, _ = decoder.raw_decode(text)
                self._seen.put(Sighting(time=time.time(), body=body))
                text = ""


@contextmanager
def watching(kubectl: Kubectl, *arguments: str) -> Iterator[Watch]:
    """A watch that ends with the block."""
    watch = Watch(kubectl, *arguments)
    try:
        time.sleep(1)  # kubectl says nothing when its watch stands
        yield watch
    finally:
        watch.stop()


def measure(environment: Environment) -> tuple[list[Figure], Body]:
    """One run of the demo's sample."""
    kubectl = environment.kubectl
    clear_output(environment)
    kubectl("-n", TENANT, "delete", "lorafinetune", RUN, "--ignore-not-found", "--wait")
    time.sleep(10)  # the operator settles
    idle_mib = operator_memory_mib(kubectl)
    before = writes(kubectl)
    with watching(kubectl, "-n", TENANT, "pods") as pods, watching(kubectl, "-n", TENANT, "lorafinetune") as runs:
        applied = time.time()
        kubectl("apply", "-f", MANIFESTS / "samples/text-to-sql-demo.yaml")
        prepare = pods.first(lambda pod: pod_stage(pod) == "prepare", seconds=30)
        ended = runs.first(lambda run: is_true(run, "Finished"), seconds=LONGEST_RUN_SECONDS)
    if not is_true(ended.body, "Ready"):
        raise RunFailed(json.dumps(ended.body["status"]["conditions"]))
    status = ended.body["status"]
    time.sleep(2)  # the Event that follows the status
    count = writes(kubectl) - before
    evaluation, usage = status["evaluation"], status["usage"]
    return [
        at_most("operator memory, idle", idle_mib, "MiB", 120),
        at_most("apply to prepare pod created", prepare.time - applied, "s", 1),
        at_most("trainer exit to Ready=True", ended.time - trainer_exit(status), "s", 2),
        at_most("API writes of the operator outside progress", count, "", 12),
        at_most("held-out loss", evaluation["loss"], "", 0.7),
        at_least("held-out token accuracy", evaluation["tokenAccuracy"], "", 0.80),
        at_most("trainer peak memory", usage["peakMemoryGiB"], "GiB", 3),
    ], status


def pod_stage(pod: Body) -> str | None:
    """prepare or train."""
    return pod["metadata"].get("labels", {}).get("lora-operator.io/stage")


def operator_memory_mib(kubectl: Kubectl) -> float:
    """Resident memory of the operator's process."""
    text = kubectl("-n", OPERATOR_NAMESPACE, "exec", "deployment/lora-operator", "--", "cat", "/proc/1/status")
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    if match is None:
        raise LookupError("the operator's /proc/1/status has no VmRSS")
    return int(match[1]) / 1024


def writes(kubectl: Kubectl) -> int:
    """Creates, patches and deletes that the operator has made, without the status writes of mere progress."""
    pod = kubectl.get("-n", OPERATOR_NAMESPACE, "pods", "-l", "app.kubernetes.io/name=lora-operator")["items"][0]
    path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    text = kubectl("get", "--raw", path)
    verbs = re.findall(
        r'^lora_operator_api_requests_total{.*verb="(?:create|patch|delete)".*} (\S+)$', text, re.MULTILINE
    )
    progress = re.findall(r"^lora_operator_progress_writes_total (\S+)$", text, re.MULTILINE)
    return round(sum(map(float, verbs)) - sum(map(float, progress)))


def trainer_exit(status: Body) -> float:
    """When the train container ended, as the kubelet says: cut to whole seconds, so what is measured from it is an
    upper bound."""
    return datetime.fromisoformat(status["attempts"][-1]["endTime"]).timestamp()


def main() -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console = Console()
    environment = ensure_environment(Timings(console=console))
    figures, status = measure(environment)
    console.print(table_of(figures))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "figures": [vars(figure) for figure in figures],
        "evaluation": status["evaluation"],
        "usage": status["usage"],
        "chosen": status["chosen"],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"Written to {RESULTS}")


if __name__ == "__main__":
    main()
