"""What classes allow, put to the real API server: it refuses what lies beyond the edge and accepts the edge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.builders import class_body
from tests.cluster.refusals import first_refusal, refusal_of
from tests.cluster.runs import DEMO_CLASS, Tenant, make_class, ready_message
from tests.demo.environment import Environment
from tests.policy_cases import CASES, GUARDED, LIMITS, NAMESPACE, PolicyCase


def refusal(tenant: Tenant, body: dict) -> str:
    """What the API server says to the run, without keeping it; empty where it accepts it."""
    return refusal_of(lambda: tenant.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body)))


@pytest.fixture(scope="module")
def guarded(environment: Environment) -> Iterator[Tenant]:
    """A namespace as the cases have it, and their class, once the API server judges by it."""
    tenant = Tenant(kubectl=environment.kubectl, namespace=NAMESPACE)
    tenant.kubectl.apply(class_body(GUARDED, default=False, **LIMITS))
    beyond = next(case for case in CASES if case.refused).body()
    first_refusal(lambda: refusal(tenant, beyond))
    yield tenant
    tenant.kubectl("delete", "lorafinetuneclass", GUARDED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_api_server_allows_the_edge_and_no_more(guarded: Tenant, case: PolicyCase) -> None:
    said = refusal(guarded, case.body())
    assert bool(said) == bool(case.refused), said
    assert case.refused in said


def test_a_class_that_became_stricter_keeps_nobody_from_editing_a_run(environment: Environment, tenant: Tenant) -> None:
    name = f"{tenant.namespace}-stricter"
    make_class(environment.kubectl, name, like=DEMO_CLASS)
    try:
        tenant.apply("run", className=name, lora={"r": 64}, suspend=True, maxRuntimeSeconds=7200)
        make_class(environment.kubectl, name, like=DEMO_CLASS, limits={"r": 8, "maxRuntimeSeconds": 3600})
        later = itertools.count(7201)
        said = first_refusal(lambda: refusal_of(lambda: tenant.patch("run", maxRuntimeSeconds=next(later))))
        assert "spec.maxRuntimeSeconds is" in said
        assert f"LoraFineTuneClass {name} allows at most 3600" in said
        tenant.patch("run", suspend=False)
        tenant.patch("run", suspend=True, retryLimit=1)
        tenant.patch("run", maxRuntimeSeconds=3600)
    finally:
        environment.kubectl("delete", "lorafinetuneclass", name)


def test_the_operator_refuses_what_the_policy_let_pass(environment: Environment, tenant: Tenant) -> None:
    """The class comes after the run, so that only the operator can hold them against each other."""
    name = f"{tenant.namespace}-late"
    tenant.apply("run", className=name, lora={"r": 64})
    tenant.wait_for_reason("run", "ClassNotFound")
    make_class(environment.kubectl, name, like=DEMO_CLASS, limits={"r": 8}, allowed={"outputs": ["s3://{namespace}/*"]})
    try:
        run = tenant.wait_for_reason("run", "PolicyViolation")
        assert f"spec.lora.r is 64, but LoraFineTuneClass {name} allows at most 8" in ready_message(run)
        assert f"Its spec.allowed.outputs allows: s3://{tenant.namespace}/*" in ready_message(run)
        assert tenant.jobs("run") == []
    finally:
        environment.kubectl("delete", "lorafinetuneclass", name)
