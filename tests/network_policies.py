"""What NetworkPolicies let pass, by the rules of networking.k8s.io/v1. Pure: it reads manifests and sends nothing.

The test cluster's network enforces no policies, so this is how they are tested: a network plugin that keeps to the
API's rules does the same. A pod's address counts for ipBlock too, the strictest reading of what the API leaves open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Body = dict[str, Any]
Direction = Literal["Ingress", "Egress"]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A pod, or with no namespace a machine somewhere."""

    address: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named ports of its containers."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A connection that somebody tries to open."""

    source: Endpoint
    target: Endpoint
    port: int
    protocol: str = "TCP"


def passes(flow: Flow, policies: Sequence[Body]) -> bool:
    """Whether the source may send and the target may receive it."""
    return _allowed(flow, policies, "Egress") and _allowed(flow, policies, "Ingress")


def _allowed(flow: Flow, policies: Sequence[Body], direction: Direction) -> bool:
    own, other = (flow.source, flow.target) if direction == "Egress" else (flow.target, flow.source)
    selecting = [policy for policy in policies if _selects(policy, own, direction)]
    if not selecting:
        return True  # a pod that no policy of this direction selects is not isolated
    rules = (rule for policy in selecting for rule in policy["spec"].get(direction.lower()) or ())
    return any(_matches(rule, flow, other, direction, namespace=own.namespace) for rule in rules)


def _selects(policy: Body, pod: Endpoint, direction: Direction) -> bool:
    spec = policy["spec"]
    kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return (
        direction in kinds
        and policy["metadata"]["namespace"] == pod.namespace
        and _has_labels(spec.get("podSelector") or {}, pod.labels)
    )


def _matches(rule: Body, flow: Flow, other: Endpoint, direction: Direction, *, namespace: str | None) -> bool:
    peers = rule.get("to" if direction == "Egress" else "from") or ()
    ports = rule.get("ports") or ()
    return (not peers or any(_is_peer(peer, other, namespace=namespace) for peer in peers)) and (
        not ports or any(_is_port(port, flow) for port in ports)
    )


def _is_peer(peer: Body, other: Endpoint, *, namespace: str | None) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(each) for each in peer["ipBlock"].get("except") or ())
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        here = _has_labels(peer["namespaceSelector"], other.namespace_labels)
    else:
        here = other.namespace == namespace
    return here and _has_labels(peer.get("podSelector") or {}, other.labels)


def _is_port(port: Body, flow: Flow) -> bool:
    if port.get("protocol", "TCP") != flow.protocol:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return flow.target.ports.get(wanted) == flow.port
    return wanted <= flow.port <= port.get("endPort", wanted)


def _has_labels(selector: Body, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    exact = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        _holds(expression, labels) for expression in _expressions(selector)
    )


def _expressions(selector: Body) -> Iterable[Body]:
    return selector.get("matchExpressions") or ()


def _holds(expression: Body, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case unknown:
            raise ValueError(f"no operator of a label selector: {unknown}")
