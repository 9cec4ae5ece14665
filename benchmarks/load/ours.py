"""The operator as its own manifests install it, what it counts, and runs for it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from lora_operator import naming

from tests.cluster import images, loading
from tests.cluster.api import COUNT_EVERY
from tests.cluster.settings import Paths
from tests.demo.environment import DOCKERFILES, MANIFESTS, OPERATOR_IMAGE, OPERATOR_NAMESPACE, REPOSITORY
from tests.demo.kubectl import Kubectl

from .usage import pid_of_pod

Body = dict[str, Any]
Report = Callable[[str], None]

CLASS = "load"
POD = "lora-operator-load"
PATIENCE = 1800
_SAMPLE = re.compile(r"^(\w+?)(?:_total)?(?:{(.*)})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def install(kubectl: Kubectl, *, paths: Paths, report: Report) -> None:
    """Build the image, install, and wait until the operator answers; with a class whose prepare pods fit no node."""
    images.build_base(paths=paths, report=report)
    file, target = DOCKERFILES[OPERATOR_IMAGE]
    images.build(
        paths=paths, context=REPOSITORY, file=REPOSITORY / file, target=target, tag=OPERATOR_IMAGE, report=report
    )
    loading.load(paths=paths, tag=OPERATOR_IMAGE, report=report)
    text = kubectl("kustomize", MANIFESTS / "install").replace("image: lora-operator", f"image: {OPERATOR_IMAGE}")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    kubectl("wait", "--for=condition=Established", f"crd/{naming.CLASS_PLURAL}.{naming.GROUP}", "--timeout=30s")
    kubectl.apply(_class())
    kubectl("-n", OPERATOR_NAMESPACE, "scale", "deployment/lora-operator", "--replicas=0")
    kubectl("-n", OPERATOR_NAMESPACE, "delete", "pods", "--all", "--wait")


def start(kubectl: Kubectl, *, wait: bool = True) -> None:
    """Start one operator, and wait until it is ready if so wanted. It is a bare pod of the Deployment's template, which
    starts without a controller manager too."""
    template = kubectl.get("-n", OPERATOR_NAMESPACE, "deployment/lora-operator")["spec"]["template"]
    metadata = {"name": POD, "namespace": OPERATOR_NAMESPACE, "labels": {"app.kubernetes.io/name": POD}}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    if wait:
        kubectl("-n", OPERATOR_NAMESPACE, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=120s")


def stop(kubectl: Kubectl) -> None:
    """End every operator and wait until it is gone."""
    kubectl("-n", OPERATOR_NAMESPACE, "delete", "pods", "--all", "--wait")


def pid(kubectl: Kubectl) -> int:
    """The operator's process. Raises LookupError while there is none."""
    return pid_of_pod(_pod(kubectl)["metadata"]["uid"])


def address(kubectl: Kubectl) -> str:
    """Where the operator's endpoints are, for this machine: it routes to its pods. Raises LookupError while there is
    no address."""
    return f"http://{_pod(kubectl)['status']['podIP']}:8080"


def _pod(kubectl: Kubectl) -> Body:
    return kubectl.get("-n", OPERATOR_NAMESPACE, "pod", POD)


def run(namespace: str, name: str) -> tuple[str, Body]:
    """Path and body of one LoraFineTune."""
    return f"/apis/{naming.API_VERSION}/namespaces/{namespace}/{naming.RUN_PLURAL}", {
        "apiVersion": naming.API_VERSION,
        "kind": naming.RUN_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "className": CLASS,
            "model": {"name": "meta-llama/Llama-3.2-3B-Instruct"},
            "dataset": {"uri": "s3://load/rows.jsonl"},
            "output": {"uri": f"s3://load/{namespace}/{name}"},
        },
    }


def _class() -> Body:
    huge = {"resources": {"requests": {"cpu": 1000, "memory": "1Gi"}}, "scratch": "1Gi"}
    spec = {
        "image": "localhost/none",
        "accelerator": {"cpu": {}},
        "storage": {"workUri": "s3://load/work", "credentials": {"secretName": "load"}},
        "prepare": huge,
        "train": huge,
    }
    metadata = {"name": CLASS}
    return {"apiVersion": naming.API_VERSION, "kind": naming.CLASS_KIND, "metadata": metadata, "spec": spec}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the operator's /metrics tell."""

    requests: Counter[tuple[str, str]]
    """By verb and resource, those for its Lease aside."""
    queue: int
    """Runs that wait for a turn."""
    reasons: Counter[str]
    """Runs by the reason of Ready."""

    @property
    def writes(self) -> int:
        """Requests that change something."""
        return sum(count for (verb, _), count in self.requests.items() if verb not in ("get", "list"))


async def metrics(session: aiohttp.ClientSession, address: str) -> Counts:
    """The operator's counts now."""
    async with session.get(f"{address}/metrics") as response:
        return _counts(await response.text())


async def until_told(session: aiohttp.ClientSession, address: str, *, runs: int, reason: str) -> Counts:
    """Wait until the status of so many runs has this reason; the operator's counts then. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while (now := await metrics(session, address)).reasons[reason] < runs:  # noqa: ASYNC110 - a process is waited for
            await asyncio.sleep(COUNT_EVERY)
        return now


def _counts(text: str) -> Counts:
    requests: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    queue = 0
    for name, labels, value in _SAMPLE.findall(text):
        of = dict(_LABEL.findall(labels))
        if name == "lora_operator_api_requests" and of["resource"] != "leases":
            requests[of["verb"], of["resource"]] += round(float(value))
        elif name == "lora_operator_runs":
            reasons[of["reason"]] += round(float(value))
        elif name == "lora_operator_queue_depth":
            queue = round(float(value))
    return Counts(requests=requests, queue=queue, reasons=reasons)
