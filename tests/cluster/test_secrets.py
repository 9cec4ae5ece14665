"""Canaries in every Secret, and a search through everything that the system wrote while runs went well and badly."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.runs import (
    DEMO_CLASS,
    REAL_TRAINING,
    TRAINING_CLASS,
    TRAINING_PATIENCE,
    Body,
    Tenant,
    make_class,
    ready_reason,
    small_training,
)
from tests.demo import object_store
from tests.demo.environment import OPERATOR_NAMESPACE, Environment
from tests.demo.object_store import Account
from tests.support.keys import private_pem

KINDS = ("lorafinetunes", "configmaps", "events", "jobs", "pods", "events.events.k8s.io")
SHORTEST_PIECE = 16
HUB = {"huggingFace": {"tokenSecretRef": {"name": "hub"}}}
SPEC = small_training(maxSteps=1)
SHORT = SPEC | HUB


def signed(secret: str) -> Body:
    """An output that is signed with a key of this Secret; the URI is the test's."""
    return {"signing": {"keySecretRef": {"name": secret}}}


@dataclass(frozen=True, kw_only=True)
class Play:
    """A run with all Secrets in its pods, and how it ends."""

    reason: str
    spec: Body = field(default_factory=dict)
    output: Body = field(default_factory=lambda: signed("signing"))
    class_name: str = "canaries"


PLAYS = {
    "published": Play(reason="AdapterPublished"),
    "rows-missing": Play(reason="DatasetNotFound", spec={"dataset": {"uri": "s3://lora/nothing.jsonl"}}),
    "model-missing": Play(reason="ModelNotFound", spec={"model": {"name": "s3://lora/models/nowhere"}} | HUB),
    "hub-away": Play(reason="HubUnavailable", spec={"model": {"name": "owner/model"}, "retryLimit": 0} | HUB),
    "key-damaged": Play(reason="ConfigInvalid", output=signed("damaged")),
    "keys-wrong": Play(reason="StorageDenied", class_name="canaries-wrong"),
    "bug": Play(reason="InternalError", spec={"dataset": {"uri": "s3://lora/scripted/bug"}}, class_name="canaries-bug"),
}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A namespace whose Secrets hold canaries."""

    tenant: Tenant
    account: Account
    canaries: dict[str, str]
    """What must never be seen, by what it is."""


def secret(namespace: str, name: str, data: dict[str, str], kind: str = "Opaque") -> Body:
    """A Secret."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "stringData": data}


def plant(environment: Environment) -> Planted:
    """Make the namespace with a canary in each Secret that a run can have."""
    tenant = Tenant.fresh(environment.kubectl)
    namespace = tenant.namespace
    tenant.create(environment.account)
    seed = secrets.randbelow(256)
    pem = private_pem(seed).decode()
    token, password, wrong, damaged = (f"{name}{secrets.token_hex(16)}" for name in ("hf_", "pw", "wrong", "damaged"))
    login = base64.b64encode(f"robot:{password}".encode()).decode()
    registries = {"auths": {"registry.example": {"username": "robot", "password": password, "auth": login}}}
    tenant.kubectl.apply(
        secret(namespace, "hub", {"token": token}),
        secret(namespace, "signing", {"private.pem": pem}),
        secret(namespace, "damaged", {"private.pem": f"-----BEGIN PRIVATE KEY-----\n{damaged}\n"}),
        secret(namespace, "wrong", {"AWS_ACCESS_KEY_ID": environment.account.access, "AWS_SECRET_ACCESS_KEY": wrong}),
        secret(namespace, "registry", {".dockerconfigjson": json.dumps(registries)}, "kubernetes.io/dockerconfigjson"),
    )
    canaries = {
        "key of the bucket": environment.account.secret,
        "token of the hub": token,
        "signing key": pem.splitlines()[1],
        "raw signing key": bytes([seed]).hex() * 32,
        "password of the registry": password,
        "login of the registry": login,
        "wrong key": wrong,
        "damaged key": damaged,
    }
    return Planted(tenant=tenant, account=environment.account, canaries=canaries)


@pytest.fixture(scope="module")
def planted(environment: Environment) -> Iterator[Planted]:
    """All runs, ended."""
    planted = plant(environment)
    pod = {"imagePullSecrets": [{"name": "registry"}]}
    scripted = environment.kubectl.get("lorafinetuneclass", "scripted")["spec"]
    make_class(environment.kubectl, "canaries", like=TRAINING_CLASS, pod=pod)
    make_class(
        environment.kubectl,
        "canaries-wrong",
        like=DEMO_CLASS,
        pod=pod,
        storage={"credentials": {"secretName": "wrong"}},
    )
    make_class(environment.kubectl, "canaries-bug", like=DEMO_CLASS, **scripted | {"pod": pod})
    tenant = planted.tenant
    for name, play in PLAYS.items():
        output = {"uri": f"s3://lora/{tenant.namespace}/{name}"} | play.output
        tenant.apply(name, **SHORT | {"className": play.class_name, "output": output} | play.spec)
    yield planted
    tenant.delete()
    environment.kubectl("delete", "lorafinetuneclass", "canaries", "canaries-wrong", "canaries-bug")


def shapes(canary: str) -> set[bytes]:
    """How a canary may show up: as it is, in base64 at each of its three offsets, and in hex."""
    plain = canary.encode()
    shifted = (base64.b64encode(b"x" * offset + plain)[4 if offset else 0 : -4] for offset in range(3))
    return {plain, plain.hex().encode(), *shifted}


def written(planted: Planted) -> dict[str, bytes]:
    """Everything that the system wrote about the namespace's runs, by where it stands."""
    tenant = planted.tenant
    kubectl = tenant.kubectl
    found = {kind: kubectl("-n", tenant.namespace, "get", kind, "-o", "yaml").encode() for kind in KINDS}
    for pod in kubectl.get("-n", tenant.namespace, "pods")["items"]:
        name = pod["metadata"]["name"]
        found[f"log of {name}"] = kubectl("-n", tenant.namespace, "logs", name).encode()
    for pod in kubectl.get("-n", OPERATOR_NAMESPACE, "pods")["items"]:
        found[f"log of {pod['metadata']['name']}"] = kubectl(
            "-n", OPERATOR_NAMESPACE, "logs", pod["metadata"]["name"]
        ).encode()
    with object_store.bucket(kubectl, planted.account) as store:
        for prefix in (f"{tenant.namespace}/", f"work/{tenant.namespace}/"):
            for page in store.list(prefix):
                found |= {entry["path"]: bytes(store.get(entry["path"]).bytes()) for entry in page}
    return found


@REAL_TRAINING
@pytest.mark.parametrize("name", PLAYS)
def test_a_run_ends_as_it_should(planted: Planted, name: str) -> None:
    """Otherwise the search below would find nothing where nothing happened."""
    play = PLAYS[name]
    ending = "Ready" if play.reason == "AdapterPublished" else "Finished"
    run = planted.tenant.wait_for(name, ending, seconds=TRAINING_PATIENCE)
    assert ready_reason(run) == play.reason


def test_no_canary_is_found_in_anything_that_was_written(planted: Planted) -> None:
    texts = written(planted)
    places = " ".join(texts)
    for part in (
        "README.md",
        "manifest.json",
        "manifest.json.sig",
        "adapter_config.json",
        "published-train-1",
        "events",
    ):
        assert part in places, "the search covers it"
    assert b"ZeroDivisionError" in texts["lorafinetunes"]
    seen: list[Any] = [
        (what, where)
        for what, canary in planted.canaries.items()
        for where, text in texts.items()
        if any(shape in text for shape in shapes(canary))
    ]
    assert seen == []


def test_the_search_finds_what_is_there(planted: Planted) -> None:
    """A canary in plain text, inside base64 and in hex."""
    for canary in planted.canaries.values():
        assert len(canary) >= SHORTEST_PIECE
        hidden = (canary.encode(), canary.encode().hex().encode())
        encoded = (base64.b64encode(b"x" * offset + canary.encode() + b"end of it") for offset in range(6))
        for text in (*hidden, *encoded):
            assert any(shape in text for shape in shapes(canary)), text
