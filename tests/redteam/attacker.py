"""A person of one team who wants more than the team's share, with one of three roles in the team's namespace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lora_operator import naming

from tests.cluster.refusals import refusal_of
from tests.cluster.runs import Tenant
from tests.demo.kubectl import Kubectl

Body = dict[str, Any]
EVIL_IMAGE = "localhost/evil/miner:1"


class Role(StrEnum):
    """What the person holds in the team's namespace, least first."""

    USER = "user-and-config-maps"
    """The role of manifests/rbac/users.yaml, and ConfigMaps."""
    EDIT_WITHOUT_PODS = "edit-without-pods"
    """The cluster's own role edit, without pods and their subresources."""
    EDIT = "edit"


def grant(kubectl: Kubectl, *, namespace: str, role: Role, person: str) -> None:
    """Give the person the role in the namespace, and no other right anywhere."""
    bind = ("-n", namespace, "create", "rolebinding")
    if role is Role.EDIT:
        kubectl(*bind, "edit", "--clusterrole=edit", f"--user={person}")
        return
    if role is Role.USER:
        kubectl(*bind, "user", "--clusterrole=lora-operator-user", f"--user={person}")
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
    else:
        rules = list(filter(None, map(_without_pods, kubectl.get("clusterrole", "edit")["rules"])))
    metadata = {"name": "more", "namespace": namespace}
    kubectl.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    kubectl(*bind, "more", "--role=more", f"--user={person}")


def _without_pods(rule: Body) -> Body | None:
    kept = [name for name in rule["resources"] if name.split("/")[0] != "pods"]
    return rule | {"resources": kept} if kept else None


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """The person, and the namespace as the platform team sees it."""

    role: Role
    tenant: Tenant
    class_name: str

    @property
    def namespace(self) -> str:
        return self.tenant.namespace

    @property
    def person(self) -> str:
        return f"attacker-of-{self.namespace}"

    @property
    def writes_jobs(self) -> bool:
        """Whether the role includes Jobs; none of them includes pods of another kind without Jobs."""
        return self.role is not Role.USER

    def tries(self, *arguments: object, stdin: str | None = None) -> str:
        """kubectl as the person: what the API server says to it where it refuses, empty where it obeys."""
        kubectl, person = self.tenant.kubectl, self.person
        return refusal_of(lambda: kubectl("-n", self.namespace, "--as", person, *arguments, stdin=stdin))

    def tries_to_apply(self, *bodies: Body) -> str:
        """Apply objects as the person. Says what `tries` says."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(bodies)}
        return self.tries("apply", "-f", "-", stdin=json.dumps(items))

    def run(self, name: str, scenario: str = "ok", **spec: Any) -> Body:
        """A run of the team's as it would apply it."""
        spec = {"output": {"uri": f"s3://{self.namespace}/{name}"}} | spec
        rows = {"uri": f"s3://{self.namespace}/{scenario}"}
        return self.tenant.body(name, scenario, class_name=self.class_name, **({"dataset": rows} | spec))

    def starts(self, name: str, scenario: str = "ok", **spec: Any) -> Body:
        """Apply a sound run as the person. Returns the run as the API server has it."""
        assert self.tries_to_apply(self.run(name, scenario, **spec)) == ""
        return self.tenant.run(name)

    def images(self) -> set[str]:
        """The images of all pods that Jobs of the operator's name have in the namespace, and of the Jobs themselves."""
        selector = naming.MANAGED_BY_SELECTOR
        found = self.tenant.kubectl.get("-n", self.namespace, "jobs,pods", "--selector", selector)["items"]
        specs = (item["spec"].get("template", item)["spec"] for item in found)
        return {container["image"] for spec in specs for container in spec["containers"]}


def owned_by(run: Body) -> list[Body]:
    """What an object says of its owner to seem a child of the run."""
    owner = {"apiVersion": run["apiVersion"], "kind": run["kind"]}
    owner |= {key: run["metadata"][key] for key in ("name", "uid")}
    return [owner | {"controller": True, "blockOwnerDeletion": False}]


def labels_of(run: Body, *, stage: str = "train", attempt: str = "1") -> Body:
    """The labels of a child of the run."""
    return {
        naming.MANAGED_BY_LABEL: naming.MANAGED_BY,
        naming.RUN_LABEL: run["metadata"]["name"],
        naming.RUN_UID_LABEL: run["metadata"]["uid"],
        naming.STAGE_LABEL: stage,
        naming.ATTEMPT_LABEL: attempt,
    }


def a_pod_spec(image: str) -> Body:
    """The spec of a pod that its namespace admits, and that no node can run: nobody has the image."""
    secure: Body = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": naming.CONTAINER, "image": image, "securityContext": secure}
    context = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"restartPolicy": "Never", "securityContext": context, "containers": [container]}


def a_pod(namespace: str, name: str, *, labels: Body, owners: list[Body], annotations: Body | None = None) -> Body:
    """A pod that claims to be one of the operator's."""
    metadata: Body = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners}
    metadata |= {"annotations": annotations} if annotations else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": a_pod_spec(EVIL_IMAGE)}


def a_job(namespace: str, name: str, *, labels: Body, owners: list[Body]) -> Body:
    """A Job that claims to be one of the operator's."""
    metadata = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owners}
    template = {"metadata": {"labels": labels}, "spec": a_pod_spec(EVIL_IMAGE)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
