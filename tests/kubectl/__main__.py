"""`python -m tests.kubectl`: run the kubectl commands of documents against an API server of their own (root, Go).

It has a control plane without a node, and what the commands are about: a run that is complete, a queue, and a node.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import control_plane
from tests.cluster.commands import ClusterError
from tests.demo.environment import MANIFESTS
from tests.demo.kubectl import Kubectl
from tests.documents import execute
from tests.fuzz.operator_process import install
from tests.kubectl.documented import DOCUMENTED, NODE, RUN, TEAM, Documented
from tests.support.keys import private_pem

MODULE = "tests.kubectl"
Body = dict[str, Any]


def main() -> int:
    """0, or 1 where a command fails or prints something else, or 2 where there is no control plane."""
    argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__).parse_args()
    try:
        control_plane.isolate(MODULE, sys.argv[1:], report=_report)
        with control_plane.running(report=_report) as paths, tempfile.TemporaryDirectory() as folder:
            kubectl = Kubectl(program=paths.state / "bin/kubectl", kubeconfig=paths.kubeconfig)
            lay_out(Path(folder))
            furnish(kubectl, folder=Path(folder))
            failed = [each for each in DOCUMENTED if not _works(each, kubectl=kubectl, folder=Path(folder))]
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 2
    return int(bool(failed))


def lay_out(folder: Path) -> None:
    """A reader's folder: the manifests, and the key that docs/tasks/use-an-adapter.md makes."""
    shutil.copytree(MANIFESTS, folder / "manifests")
    (folder / "private.pem").write_bytes(private_pem(1))


def furnish(kubectl: Kubectl, *, folder: Path) -> None:
    """What the commands are about."""
    install(kubectl)
    kubectl.apply(*(_namespace(name) for name in (TEAM, "argocd")))
    kubectl("config", "set-context", "--current", "--namespace", TEAM)
    kubectl("apply", "-f", MANIFESTS / "classes/gpu-24g.yaml")
    complete(kubectl, run=yaml.safe_load((MANIFESTS / "samples/llama-3.2-3b.yaml").read_text()))
    (folder / "queues.yaml").write_text(yaml.safe_dump_all([crd("Workload"), crd("LocalQueue")]))
    kubectl.apply_crds("-f", folder / "queues.yaml")
    kubectl.apply(_queued("Workload", "job-of-a-run"), _queued("LocalQueue", "gpus"))
    kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})


def complete(kubectl: Kubectl, *, run: Body) -> None:
    """The run, as the operator leaves it when it is done."""
    run["metadata"] = {"name": RUN, "namespace": TEAM}
    kubectl.apply(run)
    condition: Body = {
        "type": "Finished",
        "status": "True",
        "reason": "AdapterPublished",
        "message": "It is published.",
    }
    condition |= {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    patch = {"status": {"conditions": [condition]}}
    kubectl("-n", TEAM, "patch", "lft", RUN, "--subresource=status", "--type=merge", "-p", json.dumps(patch))


def crd(kind: str) -> Body:
    """One of Kueue's kinds, by name alone: what is in its objects does not matter here."""
    name = kind.lower()
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": f"{name}s", "singular": name, "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{name}s.kueue.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for a test"},
        },
        "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _queued(kind: str, name: str) -> Body:
    return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": TEAM}}


def _namespace(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _works(documented: Documented, *, kubectl: Kubectl, folder: Path) -> bool:
    """Run it, and say where it does not do what it should."""
    environment = {"KUBECONFIG": str(kubectl.kubeconfig), "PATH": f"{Path(kubectl.program).parent}:/usr/bin:/bin"}
    try:
        printed = execute(documented.runnable, folder=folder, environment=environment)
    except AssertionError as problem:
        print(f"FAILED {documented.command}\n{problem}")
        return False
    if documented.prints not in printed:
        print(f"FAILED {documented.command}\nprinted nothing of {documented.prints!r} but\n{printed}")
        return False
    print(f"works: {documented.command}")
    return True


def _report(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
