"""The CRDs on the real API server: what it accepts, what it refuses and in which words, and how it explains itself."""

from __future__ import annotations

import json

import pytest

from tests.cluster.runs import Tenant
from tests.crd_case import CrdCase
from tests.crd_cases import CASES
from tests.demo.environment import Environment
from tests.demo.kubectl import KubectlError


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_accepted_or_refused(tenant: Tenant, case: CrdCase) -> None:
    created = case.change is None
    before = in_namespace(case.before(), tenant.namespace)
    after = before if created else in_namespace(case.after(), tenant.namespace)
    try:
        if not created:
            tenant.kubectl.apply(before)
        if case.accepted:
            tenant.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(after))
        else:
            with pytest.raises(KubectlError) as refusal:
                tenant.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(after))
            assert case.words in str(refusal.value)
    finally:
        if before["kind"] == "LoraFineTuneClass":
            tenant.kubectl("delete", "lorafinetuneclass", before["metadata"]["name"], "--ignore-not-found")


def in_namespace(body: dict, namespace: str) -> dict:
    """The object in this namespace; runs of a class that is not there, so that only the CRD judges them and nothing
    starts; classes under a name of their own."""
    metadata = dict(body["metadata"])
    if body["kind"] == "LoraFineTuneClass":
        return body | {"metadata": metadata | {"name": f"{namespace}-class", "annotations": {}}}
    return body | {"metadata": metadata | {"namespace": namespace}, "spec": {"className": "none"} | body["spec"]}


def test_unknown_field_and_wrong_type_are_refused(tenant: Tenant) -> None:
    with pytest.raises(KubectlError, match=r'unknown field "(spec\.lora\.)?rank"'):
        tenant.apply("run", lora={"rank": 8})
    with pytest.raises(KubectlError, match=r"spec\.lora\.r\b.*\"?string\"?.*integer"):
        tenant.apply("run", lora={"r": "eight"})


def test_explain_reads_like_documentation(environment: Environment) -> None:
    text = environment.kubectl("explain", "lorafinetune.spec.lora")
    for words in ("Rank of the adapter matrices", "Scale of the adapter", "enum: unsloth, enabled, disabled"):
        assert words in text


def test_columns_that_people_see(tenant: Tenant) -> None:
    tenant.play("run", "ok")
    tenant.wait_for("run", "Complete")
    header, line = tenant.kubectl("-n", tenant.namespace, "get", "lft").splitlines()
    assert header.split() == ["NAME", "MODEL", "STATUS", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert "AdapterPublished" in line
