"""The operator's account and its rights, as the manifests give them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from tests.access_rules import Account

Body = dict[str, Any]

MANIFESTS = Path(__file__).parents[1] / "manifests"
HOME = "lora-operator-system"
"""Namespace of the operator in the manifests."""


def rights(*, served: Collection[str] = (), home: str = HOME) -> tuple[Account, list[Body]]:
    """The account of an operator that serves these namespaces, or the whole cluster, and all roles and bindings."""
    objects = _read("account/account.yaml", "users/roles.yaml", home=home)
    if not served:
        objects += _read("rbac/operator.yaml", "kueue/rbac.yaml", home=home)
    else:
        objects += _read("namespaced/classes.yaml", home=home)
    for namespace in served:
        bodies = _read("namespaced/served/role.yaml", home=home)
        objects += [body | {"metadata": body["metadata"] | {"namespace": namespace}} for body in bodies]
    return Account(namespace=home, name="lora-operator"), objects


def _read(*files: str, home: str) -> list[Body]:
    """The objects of files, in another namespace than theirs as a kustomization puts them there."""
    texts = ((MANIFESTS / file).read_text().replace(f"namespace: {HOME}", f"namespace: {home}") for file in files)
    return [body for text in texts for body in yaml.safe_load_all(text)]
