"""The CRDs on the real API server: what it accepts, what it refuses and in which words, and how it explains itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lora_operator import naming
from lora_operator.generate.crds import run_crd

from tests.builders import run_spec
from tests.cluster.refusals import refusal_of
from tests.cluster.runs import Tenant
from tests.crd_case import Body, CrdCase
from tests.crd_cases import CASES
from tests.demo.environment import Environment
from tests.demo.kubectl import KubectlError


@pytest.fixture(scope="module")
def shared(environment: Environment) -> Iterator[Tenant]:
    """A namespace for all cases: none of them leaves anything in it."""
    tenant = Tenant.fresh(environment.kubectl)
    tenant.create(environment.account)
    yield tenant
    tenant.delete()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_accepted_or_refused(shared: Tenant, case: CrdCase) -> None:
    before, after = in_namespace(case.before(), shared.namespace), in_namespace(case.after(), shared.namespace)
    rest, path = shared.kubectl.rest, path_of(before, shared)
    if case.change is None:
        said = refusal_of(lambda: rest.apply(path, before, dry_run=True))
    else:
        rest.apply(path, before)
        try:
            said = refusal_of(lambda: rest.apply(path, after, dry_run=True))
        finally:
            rest.delete(path)
    assert (said == "") == case.accepted, said
    assert case.words in said


def path_of(body: dict, tenant: Tenant) -> str:
    """Where the object is on the API server."""
    name = body["metadata"]["name"]
    if body["kind"] == naming.CLASS_KIND:
        return f"/apis/{naming.API_VERSION}/{naming.CLASS_PLURAL}/{name}"
    return tenant.run_path(name)


def in_namespace(body: dict, namespace: str) -> dict:
    """The object in this namespace; runs of a class that is not there, so that only the CRD judges them and nothing
    starts; classes under a name of their own."""
    metadata = dict(body["metadata"])
    if body["kind"] == naming.CLASS_KIND:
        return body | {"metadata": metadata | {"name": f"{namespace}-class", "annotations": {}}}
    return body | {"metadata": metadata | {"namespace": namespace}, "spec": {"className": "none"} | body["spec"]}


def test_unknown_field_and_wrong_type_are_refused(tenant: Tenant) -> None:
    with pytest.raises(KubectlError, match=r'unknown field "(spec\.lora\.)?rank"'):
        tenant.apply("run", lora={"rank": 8})
    with pytest.raises(KubectlError, match=r"spec\.lora\.r\b.*\"?string\"?.*integer"):
        tenant.apply("run", lora={"r": "eight"})


def test_explain_reads_like_documentation(environment: Environment) -> None:
    text = environment.kubectl("explain", "lorafinetune.spec.lora")
    for words in ("Rank of the adapter matrices", "Scale of the adapter", "enum: Unsloth, Enabled, Disabled"):
        assert words in text


def test_columns_that_people_see(tenant: Tenant) -> None:
    tenant.play("run", "ok")
    tenant.wait_for("run", "Ready")
    header, line = tenant.kubectl("-n", tenant.namespace, "get", "lft").splitlines()
    assert header.split() == ["NAME", "MODEL", "STATUS", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert "AdapterPublished" in line


LATER = "laterruns"
GROUP = "later-rules.example.com"
"""Of a CRD that only this test knows: it changes under objects that are there."""


@pytest.fixture
def earlier(environment: Environment, tmp_path: Path) -> Iterator[Callable[[Body], None]]:
    """Applies a version of a CRD of runs."""
    kubectl = environment.kubectl

    def apply(crd: Body) -> None:
        path = tmp_path / "crd.json"
        path.write_text(json.dumps(crd))
        kubectl.apply_crds("-f", path)

    yield apply
    kubectl("delete", "crd", f"{LATER}.{GROUP}")


def test_a_rule_that_came_later_keeps_nobody_from_suspending(tenant: Tenant, earlier: Callable[[Body], None]) -> None:
    strict = copy.deepcopy(run_crd())
    # Under other names: of two groups with lorafinetunes kubectl would take the first for every other test.
    names = {"plural": LATER, "singular": "laterrun", "kind": "LaterRun", "listKind": "LaterRunList"}
    strict["metadata"]["name"] = f"{LATER}.{GROUP}"
    strict["spec"] |= {"group": GROUP, "names": names}
    loose = copy.deepcopy(strict)
    spec = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["x-kubernetes-validations"]
    spec["properties"]["lora"]["properties"]["r"]["maximum"] = 9999
    earlier(loose)
    rest, folder = tenant.kubectl.rest, f"/apis/{GROUP}/{naming.VERSION}/namespaces/{tenant.namespace}/{LATER}"

    def body(name: str, **changed: Any) -> Body:
        odd = run_spec(training={"method": "GRPO"}, lora={"r": 5000}) | changed
        metadata = {"name": name, "namespace": tenant.namespace}
        return {"apiVersion": f"{GROUP}/{naming.VERSION}", "kind": "LaterRun", "metadata": metadata, "spec": odd}

    rest.apply(f"{folder}/stored", body("stored"))
    earlier(strict)
    tenant.kubectl.wait_for(
        "the later rules hold", lambda: refusal_of(lambda: rest.apply(f"{folder}/new", body("new"), dry_run=True))
    )
    said = refusal_of(lambda: rest.apply(f"{folder}/new", body("new"), dry_run=True))
    assert "spec.lora.r" in said
    said = refusal_of(lambda: rest.apply(f"{folder}/new", body("new", lora={"r": 8}), dry_run=True))
    assert "needs training.grpo.rewards" in said
    rest.apply(f"{folder}/stored", body("stored", suspend=True))
    stored = rest.get(f"{folder}/stored")
    assert stored is not None
    assert stored["spec"]["suspend"] is True
    said = refusal_of(lambda: rest.apply(f"{folder}/stored", body("stored", suspend=True, lora={"r": 8})))
    assert "spec.lora cannot change" in said
