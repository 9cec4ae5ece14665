"""What a security reviewer asks, put to the real API server."""

from __future__ import annotations

import json
import re

import pytest

from tests.cluster.runs import Tenant
from tests.demo.environment import OPERATOR_NAMESPACE, Environment
from tests.demo.kubectl import KubectlError

OPERATOR = f"system:serviceaccount:{OPERATOR_NAMESPACE}:lora-operator"
MAY = {
    ("get", "lorafinetunes.lora-operator.io"),
    ("list", "lorafinetuneclasses.lora-operator.io"),
    ("patch", "lorafinetunes.lora-operator.io/status"),
    ("create", "jobs.batch"),
    ("delete", "jobs.batch"),
    ("watch", "pods"),
    ("create", "configmaps"),
    ("create", "services"),
    ("delete", "services"),
    ("create", "events"),
}
MAY_NOT = {
    ("get", "secrets"),
    ("list", "secrets"),
    ("create", "secrets"),
    ("patch", "lorafinetunes.lora-operator.io"),
    ("update", "lorafinetunes.lora-operator.io"),
    ("delete", "lorafinetunes.lora-operator.io"),
    ("patch", "jobs.batch"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("update", "services"),
    ("get", "nodes"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("impersonate", "users"),
    ("create", "serviceaccounts/token"),
}


def may(environment: Environment, verb: str, resource: str) -> bool:
    """What the API server says of the operator's account, in any namespace."""
    try:
        name, _, subresource = resource.partition("/")
        extra = (f"--subresource={subresource}",) if subresource else ()
        answer = environment.kubectl("auth", "can-i", verb, name, *extra, "--as", OPERATOR, "-n", "team-a")
    except KubectlError:
        return False  # kubectl exits with 1 for "no"
    return answer.strip() == "yes"


@pytest.mark.parametrize(("verb", "resource"), sorted(MAY))
def test_operator_may(environment: Environment, verb: str, resource: str) -> None:
    assert may(environment, verb, resource)


@pytest.mark.parametrize(("verb", "resource"), sorted(MAY_NOT))
def test_operator_may_not(environment: Environment, verb: str, resource: str) -> None:
    assert not may(environment, verb, resource)


def test_operator_runs_non_root_with_a_read_only_root(environment: Environment) -> None:
    kubectl = environment.kubectl
    script = "import os; print(os.getuid()); open('/opt/probe', 'w')"
    with pytest.raises(KubectlError, match="Read-only file system"):
        kubectl("-n", OPERATOR_NAMESPACE, "exec", "deployment/lora-operator", "--", "python", "-c", script)
    uid = kubectl("-n", OPERATOR_NAMESPACE, "exec", "deployment/lora-operator", "--", "id", "-u")
    assert uid.strip() == "65532"


def test_trainer_has_no_token_no_root_and_one_place_to_write(tenant: Tenant) -> None:
    tenant.play("run", "until-stopped")
    tenant.wait_for_reason("run", "Training")
    pod = tenant.pods("run", stage="train")[0]["metadata"]["name"]
    script = """
import os, pathlib
assert os.getuid() == 1000, os.getuid()
assert not pathlib.Path("/var/run/secrets/kubernetes.io").exists()
pathlib.Path("/scratch/probe").write_text("")
try:
    pathlib.Path("/opt/probe").write_text("")
except OSError as problem:
    print(problem)
"""
    answer = tenant.kubectl("-n", tenant.namespace, "exec", pod, "--", "python", "-c", script)
    assert "Read-only file system" in answer


def test_secret_appears_nowhere(environment: Environment, tenant: Tenant) -> None:
    """The keys of the bucket are in the Secret and in the pods' environment, and in nothing that anybody writes."""
    tenant.play("run", "ok")
    tenant.wait_for("run", "Ready")
    kubectl, canary = environment.kubectl, environment.account.secret
    written = [
        json.dumps(kubectl.get("-n", tenant.namespace, kind))
        for kind in ("lorafinetunes", "configmaps", "events", "jobs", "pods")
    ]
    pods = [pod["metadata"]["name"] for pod in tenant.pods("run")]
    written += [kubectl("-n", tenant.namespace, "logs", pod) for pod in pods]
    written.append(kubectl("-n", OPERATOR_NAMESPACE, "logs", "deployment/lora-operator"))
    assert len(canary) == 40
    assert not [text[:200] for text in written if re.search(re.escape(canary), text)]
