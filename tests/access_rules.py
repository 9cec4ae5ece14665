"""What RBAC allows an account, by the rules of rbac.authorization.k8s.io/v1. Pure: it sends nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Access:
    """A request as RBAC sees it."""

    verb: str
    group: str
    resource: str
    """With its subresource: lorafinetunes/status."""
    namespace: str = ""
    """Empty for cluster-scoped objects, and for all namespaces at once."""
    name: str = ""

    def __post_init__(self) -> None:
        if (self.group, self.resource) == ("", "namespaces"):
            # The API server takes the path namespaces/NAME for a request in that namespace.
            object.__setattr__(self, "namespace", self.name)


@dataclass(frozen=True, kw_only=True)
class Account:
    """A ServiceAccount."""

    namespace: str
    name: str


def allowed(access: Access, account: Account, objects: Sequence[Body]) -> bool:
    """Whether the roles among the objects that are bound to the account allow the request."""
    return any(_matches(rule, access) for rule in _rules(access.namespace, account, objects))


def granted(account: Account, objects: Sequence[Body], *, namespace: str) -> set[tuple[str, str, str]]:
    """Verb, API group and resource of all that the account may do in the namespace; "" stands for the whole cluster."""
    return {
        (verb, group, resource)
        for rule in _rules(namespace, account, objects)
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def _rules(namespace: str, account: Account, objects: Sequence[Body]) -> Iterator[Body]:
    for binding in objects:
        clusterwide = binding["kind"] == "ClusterRoleBinding"
        here = binding["kind"] == "RoleBinding" and binding["metadata"]["namespace"] == namespace
        if (clusterwide or here) and _is_subject(account, binding.get("subjects", ())):
            yield from _role(binding, objects)["rules"]


def _is_subject(account: Account, subjects: Iterable[Body]) -> bool:
    wanted = {"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}
    return any(subject == wanted for subject in subjects)


def _role(binding: Body, objects: Sequence[Body]) -> Body:
    reference = binding["roleRef"]
    namespace = binding["metadata"].get("namespace") if reference["kind"] == "Role" else None
    (role,) = (
        body
        for body in objects
        if (body["kind"], body["metadata"]["name"], body["metadata"].get("namespace"))
        == (reference["kind"], reference["name"], namespace)
    )
    return role


def _matches(rule: Body, access: Access) -> bool:
    return (
        access.verb in rule["verbs"]
        and access.group in rule["apiGroups"]
        and access.resource in rule["resources"]
        and ("resourceNames" not in rule or access.name in rule["resourceNames"])
    )
