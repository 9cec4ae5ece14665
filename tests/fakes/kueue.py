"""Kueue's part of the fake API server: its kinds, and what it does to Jobs. It admits nothing by itself."""

from __future__ import annotations

from typing import Any

from .apiserver import FakeApiServer

Body = dict[str, Any]

GROUP, VISIBILITY, VERSION = "kueue.x-k8s.io", "visibility.kueue.x-k8s.io", "v1beta2"


def _crd(group: str, plural: str, kind: str, subresource: str) -> Body:
    names = {"plural": plural, "kind": kind}
    version = {"name": VERSION, "storage": True, "subresources": {subresource: {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    }


CRDS = (
    _crd(GROUP, "workloads", "Workload", "status"),
    _crd(VISIBILITY, "localqueues", "LocalQueue", "pendingworkloads"),
)
"""Kinds that are served while Kueue is installed. The real visibility API is an aggregated one."""


def suspend(server: FakeApiServer, job: str, namespace: str, *, yes: bool = True) -> None:
    """Hold a Job back or take its place away; let it go with `yes=False`."""
    server.patch("jobs", job, namespace, merge={"spec": {"suspend": yes}})


def refuse(server: FakeApiServer, job: str, namespace: str, *, message: str) -> None:
    """Make the Job's Workload, which is not admitted for this reason."""
    uid = server.get("jobs", job, namespace)["metadata"]["uid"]
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
    metadata = {"name": f"job-{job}", "namespace": namespace, "labels": {f"{GROUP}/job-uid": uid}}
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Workload", "metadata": metadata}
    server.create(body | {"status": {"conditions": [condition]}})


def line_up(server: FakeApiServer, queue: str, namespace: str, *, jobs: tuple[str, ...]) -> None:
    """Say in which order Jobs wait in a LocalQueue; names of no Jobs stand for others' work."""
    uids = {job["metadata"]["name"]: job["metadata"]["uid"] for job in server.objects("jobs", namespace)}
    owners = [{"kind": "Job", "name": job, "uid": uids.get(job, job)} for job in jobs]
    items = [
        {"metadata": {"ownerReferences": [owner]}, "positionInLocalQueue": place} for place, owner in enumerate(owners)
    ]
    summary = {"pendingworkloads": {"kind": "PendingWorkloadsSummary", "items": items}}
    if server.find("localqueues", queue, namespace) is not None:
        server.patch("localqueues", queue, namespace, merge=summary)
    else:
        body = {"apiVersion": f"{VISIBILITY}/{VERSION}", "kind": "LocalQueue"}
        server.create(body | {"metadata": {"name": queue, "namespace": namespace}} | summary)
