"""Kubeflow Trainer with JobSet, installed by their own manifests as they are released, but for the images' names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import images, loading, toolchain
from tests.cluster.settings import Paths
from tests.cluster.toolchain import GoModule
from tests.demo.kubectl import Kubectl, KubectlError

from .programs import JOBSET, TRAINER, source_of
from .usage import pid_of_pod

Body = dict[str, Any]
Report = Callable[[str], None]

NAME = "Kubeflow Trainer v2.1.0 with JobSet v0.10.1"
RUNTIME = "unschedulable"
MANAGERS = (("jobset-system", "jobset-controller-manager"), ("kubeflow-system", "kubeflow-trainer-controller-manager"))
PLURAL = "apis/trainer.kubeflow.org/v1alpha1"
_IMAGES: Mapping[str, tuple[GoModule, str]] = {
    "localhost/benchmarks/jobset:v0.10.1": (JOBSET, "jobset"),
    "localhost/benchmarks/kubeflow-trainer:v2.1.0": (TRAINER, "trainer-controller-manager"),
}
_JOBSET_IMAGE, _TRAINER_IMAGE = _IMAGES
_THIRD_PARTY = "  - ../../third-party/jobset"
"""The line that its authors ask to remove where JobSet is installed."""


def install(kubectl: Kubectl, *, paths: Paths, report: Report) -> None:
    """Build, install and wait until both managers answer."""
    programs = toolchain.build(paths=paths, report=report, modules=(JOBSET, TRAINER))
    for tag, (_, program) in _IMAGES.items():
        _image(tag, programs[program], paths=paths, report=report)
    jobset = kubectl("kustomize", source_of(JOBSET, "sigs.k8s.io/jobset") / "config/default")
    _apply(kubectl, jobset, image=_JOBSET_IMAGE)
    with tempfile.TemporaryDirectory(prefix="lora-operator-rival-") as scratch:
        manifests = Path(scratch) / "manifests"
        shutil.copytree(source_of(TRAINER, "github.com/kubeflow/trainer/v2") / "manifests", manifests)
        file = manifests / "overlays/manager/kustomization.yaml"
        file.chmod(0o644)
        lines = file.read_text().splitlines()
        file.write_text("\n".join(line for line in lines if not line.startswith(_THIRD_PARTY)))
        _apply(kubectl, kubectl("kustomize", file.parent), image=_TRAINER_IMAGE)
    for namespace, name in MANAGERS:
        kubectl.wait_for_rollout(namespace, name)
    kubectl.wait_for("its webhooks take a runtime", lambda: _runtime(kubectl), seconds=120, every=2)


def pids(kubectl: Kubectl) -> list[int]:
    """The processes of both managers."""
    pods = [pod for namespace, _ in MANAGERS for pod in kubectl.get("-n", namespace, "pods")["items"]]
    return [pid_of_pod(pod["metadata"]["uid"]) for pod in pods]


def job(namespace: str, name: str) -> tuple[str, Body]:
    """Path and body of one TrainJob whose pod fits no node."""
    return f"/{PLURAL}/namespaces/{namespace}/trainjobs", {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {"image": "localhost/none", "resourcesPerNode": {"requests": {"cpu": "1000"}}},
        },
    }


def _runtime(kubectl: Kubectl) -> bool:
    """One replicated Job of one pod, as its torch-distributed runtime has it."""
    container = {"name": "node", "image": "localhost/none"}
    pod = {"spec": {"template": {"spec": {"containers": [container]}}}}
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    replicated = {"name": "node", "template": {"metadata": {"labels": labels}} | pod}
    body = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": RUNTIME, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
            "template": {"spec": {"replicatedJobs": [replicated]}},
        },
    }
    try:
        kubectl.apply(body)
    except KubectlError as problem:  # its webhook server may not serve yet
        if "webhook" not in str(problem):
            raise
        return False
    return True


def _image(tag: str, program: Path, *, paths: Paths, report: Report) -> None:
    file = Path(__file__).with_name("manager.Dockerfile")
    arguments = {"PROGRAM": program.name}
    images.build(paths=paths, context=program.parent, file=file, tag=tag, arguments=arguments, report=report)
    loading.load(paths=paths, tag=tag, report=report)


def _apply(kubectl: Kubectl, manifests: str, *, image: str) -> None:
    documents = [document for document in yaml.safe_load_all(manifests) if document]
    for document in documents:
        if document["kind"] == "Deployment":
            document["spec"]["template"]["spec"]["containers"][0]["image"] = image
    text = yaml.safe_dump_all(documents)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
