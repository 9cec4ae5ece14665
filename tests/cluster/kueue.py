"""Kueue in the test cluster, from its Go module: upstream's manifests, changed only where a test cluster must.

It minds the namespaces with its label and no others: its webhooks would stand between all other tests and their Jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import yaml

from tests.cluster import images, loading, toolchain
from tests.cluster.commands import run
from tests.cluster.settings import KUEUE_IMAGE, Paths
from tests.demo.kubectl import Kubectl

Body = dict[str, Any]

MODULE = "sigs.k8s.io/kueue"
NAMESPACE = "kueue-system"
DEPLOYMENT = "kueue-controller-manager"
LABEL = "lora-operator.io/kueue"
"""On a namespace: Kueue minds it."""
OF_THE_CLUSTER = ("clusterqueues", "resourceflavors", "workloadpriorityclasses")
WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
SMALL = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
CONFIGURATION = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"},
    "webhook": {"port": 9443},
    "leaderElection": {"leaderElect": False},
    "integrations": {"frameworks": ["batch/job"]},
}


def install(kubectl: Kubectl, *, paths: Paths, report: Callable[[str], None]) -> None:
    """Have Kueue running in the cluster."""
    program = toolchain.build(paths=paths, report=report, modules=(toolchain.KUEUE,))["kueue"]
    images.build_static(paths=paths, tag=KUEUE_IMAGE, program=program, report=report)
    loading.load(paths=paths, tag=KUEUE_IMAGE, report=report)
    documents = manifests(kubectl)
    apply(kubectl, [body for body in documents if body["kind"] != "APIService"])
    kubectl.wait_for_rollout(NAMESPACE, DEPLOYMENT)
    # Only now: while an aggregated API does not answer, no namespace of any test can be removed.
    apply(kubectl, [body for body in documents if body["kind"] == "APIService"])
    kubectl("wait", "--for=condition=Available", "apiservice", "v1beta2.visibility.kueue.x-k8s.io", "--timeout=60s")


def remove(kubectl: Kubectl) -> None:
    """Remove the namespaces that it minds, and Kueue. Its objects go first: only Kueue can take its finalizers off."""
    kubectl("delete", "namespace", "-l", LABEL, "--timeout=180s")
    for kind in OF_THE_CLUSTER:
        kubectl("delete", f"{kind}.kueue.x-k8s.io", "--all", "--timeout=60s")
    first = ("APIService", *WEBHOOKS)
    documents = sorted(manifests(kubectl), key=lambda body: body["kind"] not in first)
    kubectl("delete", "--ignore-not-found", "--timeout=120s", "-f", "-", stdin=as_list(documents))


def manifests(kubectl: Kubectl) -> list[Body]:
    """Upstream's manifests, adapted."""
    told = run(["go", "mod", "download", "-json", MODULE], cwd=toolchain.KUEUE.folder)
    folder = json.loads(told)["Dir"]
    return [adapted(body) for body in yaml.safe_load_all(kubectl("kustomize", f"{folder}/config/default"))]


def adapted(body: Body) -> Body:
    """The document for this cluster: our image and a small pod, Jobs only, and only in namespaces with the label. Pure
    but for the document itself."""
    if body["kind"] == "Deployment":
        (container,) = body["spec"]["template"]["spec"]["containers"]
        container |= {"image": KUEUE_IMAGE, "imagePullPolicy": "Never", "resources": SMALL}
    elif body["kind"] == "ConfigMap":
        body["data"] = {"controller_manager_config.yaml": yaml.safe_dump(CONFIGURATION)}
    elif body["kind"] in WEBHOOKS:
        for webhook in body["webhooks"]:
            webhook["namespaceSelector"] = {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]}
    return body


def apply(kubectl: Kubectl, documents: list[Body]) -> None:
    """Server-side: its CRDs are too long for an annotation."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=as_list(documents))


def as_list(documents: list[Body]) -> str:
    """What kubectl reads from its standard input."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
