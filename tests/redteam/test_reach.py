"""Fields and verbs that reach beyond the team: every one is refused."""

from __future__ import annotations

import json

import pytest

from tests.cluster.refusals import first_refusal
from tests.cluster.runs import SCRIPTED_CLASS, Body, make_class
from tests.demo.environment import OPERATOR_NAMESPACE
from tests.redteam.attacker import Attacker
from tests.redteam.conftest import OtherTeam

TRICKS = (
    "s3://{other}/x",
    "s3://{mine}/../{other}/x",
    "s3://{mine}/./../{other}/x",
    "s3://{mine}/a/../../{other}/x",
    "s3://{mine}//../{other}/x",
    "s3://{mine}\n/../{other}/x",
    "s3://{mine}@{other}/x",
    "s3://{mine}.{other}/x",
    "s3://{mine}:{other}/x",
    "s3://{mine}#/{other}/x",
    "s3://{mine}?/{other}/x",
    "s3:///{other}/x",
    "s3:/{other}/x",
    "S3://{other}/x",
    "file:///var/run/secrets",
    "/etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "gs://{other}/x",
)
"""Addresses that mean, or could be taken to mean, something outside the team's own bucket. Those in which only a server
that decodes names twice would see a way out (%2e%2e) are names like others: tests/unit/trainer/test_storage.py."""


def expect_all_refused(attacker: Attacker, bodies: list[Body]) -> None:
    """Apply the runs as the person: the API server stores none of them."""
    attacker.tries_to_apply(*bodies)
    stored = attacker.tenant.kubectl("-n", attacker.namespace, "get", "lorafinetunes", "-o", "name").split()
    names = {name.partition("/")[2] for name in stored}
    assert [body["spec"] for body in bodies if body["metadata"]["name"] in names] == []


@pytest.mark.parametrize("field", ["dataset", "output", "evaluation"])
def test_an_address_outside_the_team_s_bucket_is_refused(attacker: Attacker, other: OtherTeam, field: str) -> None:
    bodies: list[Body] = []
    for number, trick in enumerate(TRICKS):
        address: Body = {"uri": trick.format(mine=attacker.namespace, other=other.tenant.namespace)}
        spec: Body = {"evaluation": {"dataset": address}} if field == "evaluation" else {field: address}
        bodies.append(attacker.run(f"{field}-{number}", suspend=True, **spec))
    expect_all_refused(attacker, bodies)


REFERENCES: dict[str, Body] = {
    "claim path above": {"dataset": {"claimRef": {"name": "rows", "path": "../../etc/passwd"}}},
    "claim path hidden": {"dataset": {"claimRef": {"name": "rows", "path": "a/../../b"}}},
    "claim of another name": {"dataset": {"claimRef": {"name": "others", "path": "x.jsonl"}}},
    "claim name as path": {"dataset": {"claimRef": {"name": "rows/../others", "path": "x.jsonl"}}},
    "claim of the model above": {"model": {"claimRef": {"name": "models", "path": "../others"}}},
    "key of a ConfigMap as path": {"dataset": {"configMapRef": {"name": "rows", "key": "../../run/run.json"}}},
    "ConfigMap name as path": {"dataset": {"configMapRef": {"name": "../x", "key": "rows.jsonl"}}},
    "Secret of another namespace": {"huggingFace": {"tokenSecretRef": {"name": "other/lora-storage", "key": "k"}}},
    "model of another bucket": {"model": {"name": "s3://elsewhere/model"}},
    "model by path": {"model": {"name": "../../etc"}},
    "model by absolute path": {"model": {"name": "/proc/self"}},
    "more GPUs than the class allows": {"parallelism": {"gpus": 16}},
    "more nodes than the class allows": {"parallelism": {"nodes": 16}},
    "name of a shell command": {"dataset": {"uri": "s3://$(id)/`id`;id"}},
    "class as path": {"className": "../lorafinetunes"},
}


def test_a_reference_beyond_the_class_is_refused(attacker: Attacker) -> None:
    bodies = [attacker.run(f"reference-{number}", suspend=True) for number in range(len(REFERENCES))]
    for body, spec in zip(bodies, REFERENCES.values(), strict=True):
        body["spec"] |= spec
    expect_all_refused(attacker, bodies)


def test_a_class_of_other_teams_is_refused(attacker: Attacker) -> None:
    name = f"{attacker.namespace}-not-for-you"
    make_class(attacker.tenant.kubectl, name, like=SCRIPTED_CLASS, namespaceSelector={"matchLabels": {"team": "ml"}})
    try:
        body = attacker.run("reaches", suspend=True)
        body["spec"]["className"] = name
        assert "is not offered to namespace" in first_refusal(lambda: attacker.tries_to_apply(body))
        labels = ("label", "namespace", attacker.namespace, "team=ml")
        assert "forbidden" in attacker.tries(*labels)
    finally:
        attacker.tenant.kubectl("delete", "lorafinetuneclass", name)


VERBS = {
    "make a class": ("create", "-f", "-"),
    "change a class": ("patch", "lorafinetuneclass", SCRIPTED_CLASS, "--type=merge", "-p", '{"spec":{"image":"x"}}'),
    "delete a class": ("delete", "lorafinetuneclass", SCRIPTED_CLASS),
    "read the operator's Secrets": ("get", "secrets", "--namespace", OPERATOR_NAMESPACE),
    "read other teams' runs": ("get", "lorafinetunes", "--all-namespaces"),
    "take the operator's Lease": ("delete", "lease", "lora-operator", "--namespace", OPERATOR_NAMESPACE),
    "stop the operator": ("scale", "deployment", "lora-operator", "--replicas=0", "--namespace", OPERATOR_NAMESPACE),
    "enter the operator": ("exec", "deployment/lora-operator", "--namespace", OPERATOR_NAMESPACE, "--", "id"),
    "change the policy": ("delete", "validatingadmissionpolicy", "--all"),
    "ask for the operator's token": ("create", "token", "lora-operator", "--namespace", OPERATOR_NAMESPACE),
    "lift the quota": ("create", "quota", "mine", "--hard=pods=1000"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_belongs_to_the_platform_is_refused(attacker: Attacker, verb: str) -> None:
    arguments = VERBS[verb]
    body = attacker.tenant.kubectl.get("lorafinetuneclass", SCRIPTED_CLASS)
    body["metadata"] = {"name": "mine"}
    said = attacker.tries(*arguments, stdin=json.dumps(body) if "-f" in arguments else None)
    assert "forbidden" in said.lower(), said
